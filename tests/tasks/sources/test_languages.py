"""The language of a file by its name, its first line or its text; scripts without an extension in a folder."""

from pathlib import Path

import pytest
from written_folders import everything, folder, write

from tasks.sources import languages


@pytest.mark.parametrize(
    "path, language",
    [
        ("a/Makefile", "Makefile"),
        ("GNUmakefile", "Makefile"),
        ("src/Makefile.am", "Makefile"),
        ("rules.mk", "Makefile"),
        ("Dockerfile", "Dockerfile"),
        ("docker/Dockerfile.dev", "Dockerfile"),
        ("app.dockerfile", "Dockerfile"),
        ("Dockerfile-prod", "Dockerfile"),
        ("Makefile_gpu", "Makefile"),
        ("Makefile-notes.txt", ""),
        ("makefile_parser.rb", "Ruby"),
        ("Containerfile", "Dockerfile"),
        ("CMakeLists.txt", "CMake"),
        ("Jenkinsfile", "Groovy"),
        ("Rakefile", "Ruby"),
        ("BUILD", "Starlark"),
        ("x/BUILD.bazel", "Starlark"),
        ("main.tf", "HCL"),
        ("App.vue", "Vue"),
        ("App.svelte", "Svelte"),
        ("index.HTM", "HTML"),
        ("compose.yml", "YAML"),
        ("note.ipynb", "Python"),
        ("Dockerfile.md", ""),
        ("makefile.py", "Python"),
        ("requirements.txt", ""),
        ("package.json", ""),
        ("pom.xml", ""),
        ("README", ""),
        ("makefiles/notes", ""),
    ],
)
def test_the_name_of_a_file_decides(path: str, language: str):
    assert languages.of_path(path) == language


@pytest.mark.parametrize(
    "name, text, language",
    [
        ("a.m", "#import <UIKit/UIKit.h>\n@implementation A\n@end\n", "Objective-C"),
        ("a.m", "% A matrix.\nfunction y = f(x)\ny = x';\nend\n", "MATLAB"),
        ("a.v", "Require Import Arith.\nTheorem t : True.\nProof. exact I. Qed.\n", "Coq"),
        ("a.v", "module m(input a);\nendmodule\n", "Verilog"),
        ("a.pl", ":- module(m, [p/1]).\np(X) :- q(X).\n", "Prolog"),
        ("a.pl", "use strict;\nprint 1;\n", "Perl"),
        ("a.d", "build/a.o: src/a.c \\\n  src/a.h\n", "Makefile"),
        ("a.d", "import std.stdio;\nvoid main() {}\n", "D"),
        ("a.fs", "#version 330\nvoid main() { gl_FragColor = vec4(1); }\n", "GLSL"),
        ("a.fs", "module A\nlet f x = x + 1\n", "F#"),
    ],
)
def test_the_text_decides_between_languages_with_one_extension(tmp_path: Path, name: str, text: str, language: str):
    write(tmp_path, {name: text})
    assert [document.language for document in everything(folder(tmp_path))] == [language]


@pytest.mark.parametrize(
    "line, language",
    [
        ("#!/bin/sh", "Shell"),
        ("#! /bin/bash -eu", "Shell"),
        ("#!/usr/bin/env python3", "Python"),
        ("#!/usr/bin/env -S python3 -u", "Python"),
        ("#!/usr/bin/env -S -i PATH=/bin python3.11", "Python"),
        ("#!/usr/bin/python2.7\r\n", "Python"),
        ("#!/opt/local/bin/perl5.30 -w", "Perl"),
        ("#!/usr/bin/env node", "JavaScript"),
        ("#!/usr/bin/env Rscript", "R"),
        ("#!/usr/local/bin/ruby", "Ruby"),
        ("#!/usr/bin/php", "PHP"),
        ("#!/usr/bin/env lua5.3", "Lua"),
        ("#!/usr/bin/env julia --project", "Julia"),
        ("#!/usr/bin/make -f", "Makefile"),
        ("\ufeff#!/usr/bin/env -S uv run --script", "Python"),
        ("#!C:/Python39/python.exe", "Python"),
        ("#!/sbin/openrc-run", "Shell"),
        ("#!/bin/unheard-of", ""),
        ("#!", ""),
        ("#!/usr/bin/env", ""),
        ("#!/usr/bin/env -S", ""),
        ("#!/bin/sh\0", ""),
        (" #!/bin/sh", ""),
        ("# a comment", ""),
    ],
)
def test_the_first_line_of_a_script_decides(line: str, language: str):
    assert languages.of_script(line.encode()) == language
    assert languages.of_script(f"{line}\nmore\n".encode()) == language


def test_scripts_without_an_extension_are_read(tmp_path: Path):
    write(
        tmp_path,
        {
            "bin/run": "#!/usr/bin/env python3\nx = 1\n",
            "bin/start": "#!/bin/sh\nexec x\n",
            "LICENSE": "Permission is granted\n",
            "program": b"\x7fELF\0\0#!/bin/sh\n",
            "notes.1": "#!/bin/sh\n",  # it has an extension
            "empty": "",
            "a.py": "#!/bin/sh\n",  # the extension decides
            "Makefile": "all:\n\ttrue\n",
            "CMakeLists.txt": "project(x)\n",
            "Dockerfile": "FROM scratch\n",
            "SConstruct": "Program('a.c')\n",
        },
    )
    read = {document.path: document.language for document in everything(folder(tmp_path))}
    assert read == {
        "bin/run": "Python",
        "bin/start": "Shell",
        "a.py": "Python",
        "Makefile": "Makefile",
        "CMakeLists.txt": "CMake",
        "Dockerfile": "Dockerfile",
        "SConstruct": "Python",
    }
    assert {d.path for d in everything(folder(tmp_path, name="python"))} == {"bin/run", "a.py", "SConstruct"}
    write(tmp_path, {"a.txt": "prose\n"})
    assert {document.path for document in everything(folder(tmp_path, name="nl"))} == {"a.txt"}  # not CMakeLists.txt
