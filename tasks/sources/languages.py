"""Programming languages: how a file's name, its first line or its text show them, and the names that corpora use.

The names are those of GitHub's linguist. .json, .xml and .csv are in no language: most such files are data.
"""

import codecs
import os
import re

LANGUAGES: dict[str, tuple[str, ...]] = {
    "Ada": (".adb", ".ads"),
    "Agda": (".agda",),
    "Apex": (".apex",),
    "Assembly": (".asm", ".nasm", ".s"),
    "Astro": (".astro",),
    "Awk": (".awk",),
    "Batchfile": (".bat", ".cmd"),
    "C": (".c", ".h"),
    "C#": (".cs", ".csx"),
    "C++": (".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cu", ".cuh", ".inl", ".ino", ".ipp", ".tpp"),
    "Clojure": (".clj", ".cljc", ".cljs"),
    "CMake": (".cmake",),
    "COBOL": (".cbl", ".cob"),
    "CoffeeScript": (".coffee",),
    "Common Lisp": (".asd", ".lisp", ".lsp"),
    "Coq": (),
    "Crystal": (".cr",),
    "CSS": (".css",),
    "Cython": (".pxd", ".pyx"),
    "D": (".d",),
    "Dart": (".dart",),
    "Dockerfile": (".containerfile", ".dockerfile"),
    "Elixir": (".ex", ".exs"),
    "Elm": (".elm",),
    "Emacs Lisp": (".el",),
    "Erlang": (".erl", ".hrl"),
    "F#": (".fs", ".fsi", ".fsx"),
    "Fish": (".fish",),
    "Fortran": (".f", ".f77", ".f90", ".f95", ".f03", ".f08", ".for"),
    "GLSL": (".comp", ".frag", ".geom", ".glsl", ".vert"),
    "Go": (".go",),
    "GraphQL": (".gql", ".graphql"),
    "Groovy": (".gradle", ".groovy"),
    "Haskell": (".hs", ".lhs"),
    "HCL": (".hcl", ".tf", ".tfvars"),
    "HLSL": (".hlsl",),
    "HTML": (".htm", ".html", ".xhtml"),
    "Idris": (".idr",),
    "Java": (".java",),
    "JavaScript": (".js", ".mjs", ".cjs", ".jsx"),
    "Jsonnet": (".jsonnet", ".libsonnet"),
    "Julia": (".jl",),
    "Just": (".just",),
    "Kotlin": (".kt", ".kts"),
    "Lean": (".lean",),
    "Less": (".less",),
    "LLVM": (".ll",),
    "Lua": (".lua",),
    "Makefile": (".mak", ".mk"),
    "MATLAB": (".m",),
    "Meson": (),
    "Mojo": (".mojo",),
    "Nim": (".nim", ".nims"),
    "Nix": (".nix",),
    "Objective-C": (),
    "Objective-C++": (".mm",),
    "OCaml": (".ml", ".mli"),
    "Pascal": (".dpr", ".lpr", ".pas"),
    "Perl": (".pl", ".pm"),
    "PHP": (".php",),
    "PowerShell": (".ps1", ".psd1", ".psm1"),
    "Prolog": (),
    "Protocol Buffer": (".proto",),
    "Puppet": (".pp",),
    "PureScript": (".purs",),
    "Python": (".py", ".pyi", ".pyw"),
    "R": (".r",),
    "Racket": (".rkt",),
    "Raku": (".raku", ".rakumod"),
    "ReScript": (".res", ".resi"),
    "Ruby": (".gemspec", ".podspec", ".rake", ".rb", ".ru"),
    "Rust": (".rs",),
    "Sass": (".sass",),
    "Scala": (".sbt", ".sc", ".scala"),
    "Scheme": (".scm", ".sld", ".ss"),
    "SCSS": (".scss",),
    "Shell": (".sh", ".bash", ".ksh", ".zsh"),
    "Solidity": (".sol",),
    "SQL": (".sql",),
    "Starlark": (".bazel", ".bzl", ".star"),
    "Stylus": (".styl",),
    "Svelte": (".svelte",),
    "Swift": (".swift",),
    "SystemVerilog": (".sv", ".svh"),
    "Tcl": (".tcl",),
    "Thrift": (".thrift",),
    "TOML": (".toml",),
    "TypeScript": (".ts", ".tsx", ".mts", ".cts"),
    "Verilog": (".v", ".vh"),
    "VHDL": (".vhd", ".vhdl"),
    "Vim Script": (".vim",),
    "Visual Basic .NET": (".vb",),
    "Vue": (".vue",),
    "Vyper": (".vy",),
    "WebAssembly": (".wat",),
    "WGSL": (".wgsl",),
    "YAML": (".yaml", ".yml"),
    "Zig": (".zig",),
}

# Complete names of files, in lower case.
FILENAMES: dict[str, tuple[str, ...]] = {
    "CMake": ("cmakelists.txt",),
    "Dockerfile": ("containerfile", "dockerfile"),
    "Go": ("go.mod",),
    "Groovy": ("jenkinsfile",),
    "Just": ("justfile",),
    "Makefile": ("bsdmakefile", "gnumakefile", "kbuild", "makefile"),
    "Meson": ("meson.build", "meson_options.txt"),
    "Python": ("sconscript", "sconstruct", "wscript"),
    "Ruby": (
        *("appraisals", "berksfile", "brewfile", "capfile", "dangerfile", "fastfile", "gemfile", "guardfile"),
        *("podfile", "rakefile", "thorfile", "vagrantfile"),
    ),
    "Starlark": ("buck", "build", "build.bazel", "module.bazel", "tiltfile", "workspace", "workspace.bazel"),
}
# These names may have a suffix: Dockerfile.dev, Makefile.am, Dockerfile-prod. An extension that is in LANGUAGES comes
# first.
_WITH_SUFFIX = frozenset(("containerfile", "dockerfile", "gnumakefile", "jenkinsfile", "makefile"))
_NOT_A_SUFFIX = (".md", ".rst", ".txt", ".adoc", ".orig", ".rej", ".bak", ".log", ".json", ".jsonl", ".csv", ".gz")

# Programs that a script's first line names.
_INTERPRETERS = {
    "ash bash dash ksh mksh openrc-run sh zsh": "Shell",
    "bun node nodejs": "JavaScript",
    "deno ts-node tsx": "TypeScript",
    "awk gawk mawk nawk": "Awk",
    "clojure bb": "Clojure",
    "crystal": "Crystal",
    "elixir iex": "Elixir",
    "escript": "Erlang",
    "fish": "Fish",
    "groovy": "Groovy",
    "guile": "Scheme",
    "julia": "Julia",
    "just": "Just",
    "kotlin kotlinc": "Kotlin",
    "lua luajit texlua": "Lua",
    "make gmake": "Makefile",
    "nim nimcr": "Nim",
    "ocaml ocamlrun": "OCaml",
    "perl": "Perl",
    "php": "PHP",
    "pwsh powershell": "PowerShell",
    "ipython pypy python pythonw sage uv": "Python",
    "Rscript littler r": "R",
    "racket": "Racket",
    "raku rakudo": "Raku",
    "jruby macruby rbx ruby": "Ruby",
    "runghc runhaskell stack": "Haskell",
    "sbcl": "Common Lisp",
    "scala scala-cli amm": "Scala",
    "swift": "Swift",
    "tclsh wish expect": "Tcl",
}

# (pattern, language) of extensions that several languages share: the first pattern that a text has decides, and the
# table above without one.
_SHARED: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    ".d": ((re.compile(r"\A\S+\.\w+\s*:[ \t]"), "Makefile"),),  # what compilers write for make
    ".fs": ((re.compile(r"^\s*(?:#version|precision \w+ float|varying |uniform )|\bgl_\w+", re.M), "GLSL"),),
    ".m": ((re.compile(r"^\s*(?:#\s*(?:import|include|define|if)\b|@\w+|//|/\*)", re.M), "Objective-C"),),
    ".pl": ((re.compile(r"^:-|^\w+\(.*\)\s*:-", re.M), "Prolog"),),
    ".v": ((re.compile(r"^\s*(?:Require|From|Theorem|Lemma|Definition|Inductive|Proof)\b", re.M), "Coq"),),
}

NOTEBOOK = ".ipynb"

_BY_EXTENSION = {extension: language for language, extensions in LANGUAGES.items() for extension in extensions}
_BY_EXTENSION[NOTEBOOK] = "Python"  # unless the notebook names another language
_BY_FILENAME = {name: language for language, names in FILENAMES.items() for name in names}
_BY_INTERPRETER = {program: language for programs, language in _INTERPRETERS.items() for program in programs.split()}
_BY_NAME = {"bash": "Shell", "sh": "Shell", "zsh": "Shell", "golang": "Go", "js": "JavaScript", "ts": "TypeScript"}
_BY_NAME |= {"cpp": "C++", "cplusplus": "C++", "csharp": "C#", "c-sharp": "C#", "c_sharp": "C#", "asm": "Assembly"}
_BY_NAME |= {"py": "Python", "python3": "Python", "rb": "Ruby", "rs": "Rust", "kt": "Kotlin"}
_BY_NAME |= {"ipython": "Python", "objective-c": "Objective-C", "objectivec": "Objective-C", "terraform": "HCL"}
_BY_NAME |= {"protobuf": "Protocol Buffer", "viml": "Vim Script", "vimscript": "Vim Script", "docker": "Dockerfile"}
_BY_NAME |= {"make": "Makefile", "yml": "YAML", "fsharp": "F#", "elisp": "Emacs Lisp", "bazel": "Starlark"}
_BY_NAME |= {language.lower(): language for language in LANGUAGES}

_SHEBANG = re.compile(r"#![ \t]*(\S+)[ \t]*([^\r\n]*)")
SHEBANG_BYTES = 128


def of_path(path: str, text: str = "") -> str:
    """The language of a file by its name, and by its text if languages share the extension; "" if none has the name."""
    name = path.rpartition("/")[2].lower()
    extension = os.path.splitext(name)[1]
    if language := of_file_name(name):
        return language
    for pattern, language in _SHARED.get(extension, ()) if text else ():
        if pattern.search(text):
            return language
    return _BY_EXTENSION.get(extension, "")


def of_file_name(name: str) -> str:
    """The language of a complete file name, such as Makefile or Dockerfile.dev; "" if none has it."""
    name = name.lower()
    if language := _BY_FILENAME.get(name):
        return language
    stem, extension = re.split(r"[._-]", name, maxsplit=1)[0], os.path.splitext(name)[1]
    has_suffix = stem in _WITH_SUFFIX and extension not in _BY_EXTENSION and not name.endswith(_NOT_A_SUFFIX)
    return _BY_FILENAME[stem] if has_suffix else ""


def of_script(head: bytes) -> str:
    """The language of a script by its first line, #!INTERPRETER; "" without one that is known.

    Args:
        head: the first SHEBANG_BYTES of the file, or more.
    """
    head = head.removeprefix(codecs.BOM_UTF8)
    if not head.startswith(b"#!") or b"\0" in head:
        return ""
    match = _SHEBANG.match(head.decode("utf-8", "replace"))
    if match is None:
        return ""
    program, arguments = match[1].rpartition("/")[2], match[2].split()
    if program == "env":
        # env -S python3 -u, env -Spython3, env -i NAME=value python3
        words = [word.removeprefix("-S").removeprefix("--split-string=") for word in arguments]
        program = next((word for word in words if word and not word.startswith("-") and "=" not in word), "")
        program = program.rpartition("/")[2]
    versionless = re.sub(r"[-\d.]+$", "", program.lower().removesuffix(".exe"))  # python3.11, perl5, python.exe
    return _BY_INTERPRETER.get(program) or _BY_INTERPRETER.get(versionless, "")


def canonical_name(name: str) -> str:
    """The name in LANGUAGES for a name or alias in upper or lower case; an unknown name is returned unchanged."""
    return _BY_NAME.get(name.strip().lower(), name)
