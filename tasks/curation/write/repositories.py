"""The order of a repository's files in one document: each after those of the repository that it imports.

Imports are found by their lines, in Python, JavaScript, TypeScript, C and C++; of other languages, and where files
import one another, the order is that of the paths.
"""

import heapq
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence

_PYTHON = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*[\w.]*)[ \t]+import[ \t]+\(?([^)#\n]*)|import[ \t]+([^#\n]+))", re.MULTILINE
)
_SCRIPT = re.compile(r"""(?:\bfrom[ \t]+|\bimport[ \t]*\(?[ \t]*|\brequire[ \t]*\([ \t]*)["'](\.[^"'\n]*)["']""")
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.MULTILINE)
_SCRIPT_ENDINGS = ("", ".js", ".ts", ".tsx", ".jsx", ".mjs", ".cjs", "/index.js", "/index.ts")
_SCRIPTS = (".js", ".ts", ".tsx", ".jsx", ".mjs", ".cjs", ".mts", ".cts")
_C = (".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cu", ".cuh")


def ordered(texts: Mapping[str, str]) -> list[str]:
    """The paths of the files of one repository (path -> text), each after those that it imports, else by path.

    Where files import one another, the first by path of those that are left goes next.
    """
    modules = _modules(texts)
    before = {path: {found for found in _imports(path, texts[path], texts, modules) if found != path} for path in texts}
    after: dict[str, list[str]] = {path: [] for path in texts}
    for path, wanted in before.items():
        for other in wanted:
            after[other].append(path)
    waiting = {path: len(wanted) for path, wanted in before.items()}
    ready = [path for path, count in waiting.items() if not count]
    heapq.heapify(ready)
    rest = iter(sorted(texts))
    result: list[str] = []
    while len(result) < len(texts):
        path = heapq.heappop(ready) if ready else next(path for path in rest if path in waiting)
        if path not in waiting:
            continue
        del waiting[path]
        result.append(path)
        for other in after[path]:
            if other in waiting:
                waiting[other] -= 1
                if not waiting[other]:
                    heapq.heappush(ready, other)
    return result


def _modules(paths: Iterable[str]) -> dict[str, list[str]]:
    """Last name of a Python module -> the files that go by it: "c" -> a/b/c.py, a/b/c/__init__.py."""
    modules: dict[str, list[str]] = {}
    for path in sorted(paths):
        if path.endswith((".py", ".pyi")):
            modules.setdefault(_module(path).rpartition("/")[2], []).append(path)
    return modules


def _module(path: str) -> str:
    return posixpath.splitext(path)[0].removesuffix("/__init__")


def _imports(path: str, text: str, paths: Mapping[str, str], modules: Mapping[str, list[str]]) -> set[str]:
    ending = posixpath.splitext(path)[1].lower()
    folder = posixpath.dirname(path)
    if ending in (".py", ".pyi"):
        return _python(folder, text, modules)
    found = set()
    if ending in _SCRIPTS:
        for name in _SCRIPT.findall(text):
            place = posixpath.normpath(posixpath.join(folder, name))
            found |= {place + ending for ending in _SCRIPT_ENDINGS if place + ending in paths}
    elif ending in _C:
        for name in _INCLUDE.findall(text):
            # beside the file, or in its folder "include", or in those of the folders above
            places = [posixpath.normpath(posixpath.join(above, name)) for above in _above(folder)]
            found |= set([place for place in places if place in paths][:1])
    return found


def _above(folder: str) -> list[str]:
    folders = [folder]
    while folders[-1]:
        folders.append(posixpath.dirname(folders[-1]))
    return [place for above in folders for place in (above, posixpath.join(above, "include"))]


def _python(folder: str, text: str, modules: Mapping[str, list[str]]) -> set[str]:
    names: list[str] = []
    for origin, imported, plain in _PYTHON.findall(text):
        if plain:
            names += [name.split()[0] for name in plain.split(",") if name.split()]
            continue
        attributes = [name.split()[0] for name in imported.split(",") if name.split()]
        names += [origin, *(f"{origin}{'' if origin.endswith('.') else '.'}{name}" for name in attributes)]
    found = set()
    for name in names:
        dots = len(name) - len(name.lstrip("."))
        below = "/".join(filter(None, name.lstrip(".").split(".")))
        if dots:
            base = folder
            for _ in range(dots - 1):
                base = posixpath.dirname(base)
            wanted = posixpath.join(base, below) if below else base
            found |= {path for path in modules.get(posixpath.basename(wanted), ()) if _module(path) == wanted}
        elif below:
            ends = modules.get(posixpath.basename(below), ())
            matches = [path for path in ends if f"/{_module(path)}".endswith(f"/{below}")]
            found |= set(_nearest(matches, folder)) if "/" in below or len(matches) == 1 else set(matches[:1])
    return found


def _nearest(matches: Sequence[str], folder: str) -> list[str]:
    """The one that shares most of its path with the folder."""
    return [max(matches, key=lambda path: (len(posixpath.commonprefix([path, folder])), path))] if matches else []
