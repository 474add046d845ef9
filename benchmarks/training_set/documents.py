"""The documents of the benchmark."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.curation.clean.content_hash import content_hash
from tasks.sources import languages


def documents(roots: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(path, text) of the source files below the folders, each distinct text once, in the order of a hash of their
    relative paths."""
    paths = {
        os.path.join(folder, name): root
        for root in roots
        for folder, _, names in os.walk(root)
        for name in names
        if languages.of_path(name)
    }
    seen = set()
    for path in sorted(paths, key=lambda path: hashlib.sha256(path[len(paths[path]) :].encode()).digest()):
        try:
            if not 0 < os.path.getsize(path) <= 1 << 20:
                continue
            text = Path(path).read_bytes().decode("utf-8")
        except (OSError, UnicodeError):
            continue
        key = content_hash(text)
        if text.strip() and key not in seen:
            seen.add(key)
            yield path, text
