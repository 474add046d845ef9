"""The licence of files that come without one: by their own SPDX line, or by the licence file of their repository.

Licence files are told by phrases that only that licence has. What none of them fits stays unknown (""), which an
allow-list then leaves out.
"""

import contextlib
import functools
import re
from collections.abc import Sequence

from codellama_jax.errors import UserError
from tasks.curation import storage
from tasks.sources import files
from tasks.sources.base import Document

_LOOKED_AT = 4096  # characters of a document in which an SPDX line stands
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+-]+(?:\s+(?:OR|AND|WITH)\s+[\w.+-]+)*)")
_FILE = re.compile(r"(un)?licen[cs]e|copying", re.IGNORECASE)
_LARGEST = 1 << 17  # bytes of a licence file that are read

# In this order: a text of the LGPL speaks of the GPL, and so on. All phrases have to be there, with single spaces.
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
    """The document's own, or else what is found; "" where nothing is.

    Args:
        roots: the folders that documents are read from.
    """
    if document.licence:
        return document.licence
    if found := _SPDX.search(document.text, 0, _LOOKED_AT):
        return " ".join(found[1].split())
    return _of_repository(document.repository, tuple(roots)) if document.repository else ""


def named(text: str) -> str:
    """The SPDX name of a licence's text; "" for none of those that are known."""
    words = " ".join(text.lower().replace("’", "'").split())
    return next((name for name, phrases in _PHRASES if all(phrase in words for phrase in phrases)), "")


@functools.lru_cache(maxsize=1 << 16)
def _of_repository(repository: str, roots: tuple[str, ...]) -> str:
    """By the first licence file, by name, in the repository's folder, or, for those it may be part of, in one above."""
    for root in roots:
        folder = repository
        while folder:
            place = storage.join(files.expanded(root), folder)
            for name in storage.names(place):
                if _FILE.match(name):
                    with contextlib.suppress(OSError, UserError), storage.opened(storage.join(place, name)) as file:
                        if found := named(file.read(_LARGEST).decode("utf-8", "replace")):
                            return found
            folder = folder.rpartition("/")[0]
    return ""
