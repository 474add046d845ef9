"""The licence of a document: from its record, its SPDX line, or the licence file of its repository.

Licence files are recognized by phrases that only one licence has. A licence that is not recognized is unknown (""), and
an allow-list excludes it.
"""

import contextlib
import functools
import re
from collections.abc import Sequence

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from tasks.curation import storage
from tasks.sources.base import Document

_HEAD = 4096  # characters of a document in which an SPDX line is searched for
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+-]+(?:\s+(?:OR|AND|WITH)\s+[\w.+-]+)*)")
_FILE = re.compile(r"(un)?licen[cs]e|copying", re.IGNORECASE)
_READ_BYTES = 1 << 17  # of a licence file

# The order matters: the LGPL's text mentions the GPL, and so on. All phrases must occur, with white space normalized.
_PHRASES: Sequence[tuple[str, tuple[str, ...]]] = (
    ("AGPL-3.0", ("gnu affero general public license", "version 3")),
    ("LGPL-2.1", ("gnu lesser general public license", "version 2.1")),
    ("LGPL-3.0", ("gnu lesser general public license", "version 3")),
    ("GPL-3.0", ("gnu general public license", "version 3, 29 june 2007")),
    ("GPL-2.0", ("gnu general public license", "version 2, june 1991")),
    ("MPL-2.0", ("mozilla public license", "2.0")),
    ("EPL-2.0", ("eclipse public license", "2.0")),
    ("Apache-2.0", ("apache license", "version 2.0")),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("BSL-1.0", ("boost software license", "version 1.0")),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software for any purpose with or without fee",)),
    ("ISC", ("permission to use, copy, modify, and distribute this software for any purpose with or without fee",)),
    ("Zlib", ("this software is provided 'as-is'", "altered source versions must be plainly marked")),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "neither the name")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
    ("MIT", ("permission is hereby granted, free of charge, to any person obtaining a copy",)),
)


def licence_of(document: Document, roots: Sequence[str]) -> str:
    """The licence that the document states, or else that of its repository; "" if it is unknown.

    Args:
        roots: the folders that documents are read from.
    """
    if document.licence:
        return document.licence
    if match := _SPDX.search(document.text, 0, _HEAD):
        return " ".join(match[1].split())
    return _repository_licence(document.repository, tuple(roots)) if document.repository else ""


def identify(text: str) -> str:
    """The SPDX name of the licence with this text; "" if it is not recognized."""
    words = " ".join(text.lower().replace("’", "'").split())
    return next((name for name, phrases in _PHRASES if all(phrase in words for phrase in phrases)), "")


@functools.lru_cache(maxsize=1 << 16)
def _repository_licence(repository: str, roots: tuple[str, ...]) -> str:
    """The licence of the first licence file, by name, in the repository's folder or else in the folders above it."""
    for root in roots:
        folder = repository
        while folder:
            path = storage.join(filesystem.expand_home(root), folder)
            for name in storage.list_folder(path):
                if _FILE.match(name):
                    with contextlib.suppress(OSError, UserError), storage.open_input(storage.join(path, name)) as file:
                        if licence := identify(file.read(_READ_BYTES).decode("utf-8", "replace")):
                            return licence
            folder = folder.rpartition("/")[0]
    return ""
