"""Programming languages: their file extensions, and the names that corpora use for them."""

import os

LANGUAGES: dict[str, tuple[str, ...]] = {
    "Assembly": (".asm", ".s"),
    "C": (".c", ".h"),
    "C++": (".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cu", ".cuh"),
    "C#": (".cs",),
    "Clojure": (".clj", ".cljs"),
    "Dart": (".dart",),
    "Elixir": (".ex", ".exs"),
    "Erlang": (".erl", ".hrl"),
    "Fortran": (".f", ".f90", ".f95"),
    "Go": (".go",),
    "Haskell": (".hs",),
    "Java": (".java",),
    "JavaScript": (".js", ".mjs", ".cjs", ".jsx"),
    "Julia": (".jl",),
    "Kotlin": (".kt", ".kts"),
    "Lua": (".lua",),
    "OCaml": (".ml", ".mli"),
    "Perl": (".pl", ".pm"),
    "PHP": (".php",),
    "Python": (".py", ".pyi"),
    "R": (".r",),
    "Ruby": (".rb",),
    "Rust": (".rs",),
    "Scala": (".scala",),
    "Shell": (".sh", ".bash"),
    "SQL": (".sql",),
    "Swift": (".swift",),
    "TypeScript": (".ts", ".tsx", ".mts", ".cts"),
    "Zig": (".zig",),
}

_BY_EXTENSION = {extension: language for language, extensions in LANGUAGES.items() for extension in extensions}
_BY_NAME = {"bash": "Shell", "sh": "Shell", "zsh": "Shell", "golang": "Go", "js": "JavaScript", "ts": "TypeScript"}
_BY_NAME |= {"cpp": "C++", "cplusplus": "C++", "csharp": "C#", "c-sharp": "C#", "c_sharp": "C#", "asm": "Assembly"}
_BY_NAME |= {"py": "Python", "python3": "Python", "rb": "Ruby", "rs": "Rust", "kt": "Kotlin"}
_BY_NAME |= {language.lower(): language for language in LANGUAGES}


def of_path(path: str) -> str:
    """The language of a file by its extension; "" if no language has it."""
    return _BY_EXTENSION.get(os.path.splitext(path)[1].lower(), "")


def canonical_name(name: str) -> str:
    """The name in LANGUAGES for a name or alias in upper or lower case; an unknown name is returned unchanged."""
    return _BY_NAME.get(name.strip().lower(), name)
