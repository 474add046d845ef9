"""Orders the files of a repository topologically: each file comes after those that it imports.

Imports are found with regular expressions in Python, JavaScript, TypeScript, C and C++. Files in other languages, and
files that import one another, are ordered by path.
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
_SCRIPT_SUFFIXES = ("", ".js", ".ts", ".tsx", ".jsx", ".mjs", ".cjs", "/index.js", "/index.ts")
_SCRIPTS = (".js", ".ts", ".tsx", ".jsx", ".mjs", ".cjs", ".mts", ".cts")
_C = (".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cu", ".cuh")


def import_order(texts: Mapping[str, str]) -> list[str]:
    """The paths of the files of one repository (path -> text), each after those that it imports, otherwise by path.

    A cycle of imports is broken at the first remaining file by path.
    """
    modules = _modules(texts)
    imports = {path: _imports(path, texts[path], texts, modules) - {path} for path in texts}
    importers: dict[str, list[str]] = {path: [] for path in texts}
    for path, imported in imports.items():
        for other in imported:
            importers[other].append(path)
    pending = {
        path: len(imported) for path, imported in imports.items()
    }  # path -> number of its imports not yet in the result
    ready = [path for path, count in pending.items() if not count]
    heapq.heapify(ready)
    by_path = iter(sorted(texts))
    result: list[str] = []
    while len(result) < len(texts):
        path = heapq.heappop(ready) if ready else next(path for path in by_path if path in pending)
        if path not in pending:
            continue
        del pending[path]
        result.append(path)
        for other in importers[path]:
            if other in pending:
                pending[other] -= 1
                if not pending[other]:
                    heapq.heappush(ready, other)
    return result


def _modules(paths: Iterable[str]) -> dict[str, list[str]]:
    """Last part of the name of a Python module -> its files: "c" -> a/b/c.py, a/b/c/__init__.py."""
    modules: dict[str, list[str]] = {}
    for path in sorted(paths):
        if path.endswith((".py", ".pyi")):
            modules.setdefault(_module(path).rpartition("/")[2], []).append(path)
    return modules


def _module(path: str) -> str:
    return posixpath.splitext(path)[0].removesuffix("/__init__")


def _imports(path: str, text: str, paths: Mapping[str, str], modules: Mapping[str, list[str]]) -> set[str]:
    """The files of the repository that a file imports."""
    extension = posixpath.splitext(path)[1].lower()
    folder = posixpath.dirname(path)
    if extension in (".py", ".pyi"):
        return _python_imports(folder, text, modules)
    imported = set()
    if extension in _SCRIPTS:
        for name in _SCRIPT.findall(text):
            target = posixpath.normpath(posixpath.join(folder, name))
            imported |= {target + suffix for suffix in _SCRIPT_SUFFIXES if target + suffix in paths}
    elif extension in _C:
        for name in _INCLUDE.findall(text):
            targets = [posixpath.normpath(posixpath.join(base, name)) for base in _include_folders(folder)]
            imported |= set([target for target in targets if target in paths][:1])
    return imported


def _include_folders(folder: str) -> list[str]:
    """The folder and its "include", and those of the folders above it."""
    folders = [folder]
    while folders[-1]:
        folders.append(posixpath.dirname(folders[-1]))
    return [path for base in folders for path in (base, posixpath.join(base, "include"))]


def _python_imports(folder: str, text: str, modules: Mapping[str, list[str]]) -> set[str]:
    names: list[str] = []
    for origin, from_names, plain in _PYTHON.findall(text):
        if plain:
            names += [name.split()[0] for name in plain.split(",") if name.split()]
            continue
        attributes = [name.split()[0] for name in from_names.split(",") if name.split()]
        names += [origin, *(f"{origin}{'' if origin.endswith('.') else '.'}{name}" for name in attributes)]
    imported = set()
    for name in names:
        dots = len(name) - len(name.lstrip("."))
        below = "/".join(filter(None, name.lstrip(".").split(".")))
        if dots:
            base = folder
            for _ in range(dots - 1):
                base = posixpath.dirname(base)
            wanted = posixpath.join(base, below) if below else base
            imported |= {path for path in modules.get(posixpath.basename(wanted), ()) if _module(path) == wanted}
        elif below:
            candidates = modules.get(posixpath.basename(below), ())
            matches = [path for path in candidates if f"/{_module(path)}".endswith(f"/{below}")]
            imported |= set(_nearest(matches, folder)) if "/" in below or len(matches) == 1 else set(matches[:1])
    return imported


def _nearest(matches: Sequence[str], folder: str) -> list[str]:
    """The path that has the longest common prefix with the folder."""
    return [max(matches, key=lambda path: (len(posixpath.commonprefix([path, folder])), path))] if matches else []
