"""Programs that attack whoever runs them: the type, and how one is written. The programs are in hostile_*.py.

Most define f, and their test is `assert f(1) == 2`. None is right: one that passes has forged its verdict. One that
reaches what it must not prints ESCAPED.
"""

import dataclasses
import textwrap

TEST = "assert f(1) == 2"
ESCAPED = "ESCAPED"

FORGING = "forged verdict"
RESOURCES = "resources"
INFORMATION = "information exposure"
FILES = "file system"
NETWORK = "network"
DANGEROUS = "dangerous operations"

_ATTACK = """
import os, posix, sys
from io import open
for name in dir(posix):  # what a guard has replaced in os
    setattr(os, name, getattr(posix, name))
def escaped(what=""):
    os.write(1, f"ESCAPED {what}\\n".encode())
def f(x):
    return 3
def attack():
BODY
try:
    if found := attack():
        escaped(found)
except BaseException as error:
    os.write(2, repr(error).encode(errors="replace"))
"""
# Numbers of system calls are those of x86_64.
_LIBRARY = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nlibc.mmap.restype = ctypes.c_void_p\n"


@dataclasses.dataclass(frozen=True)
class Target:
    """What an attack from the same machine could reach.

    Attributes:
        folder: one that everybody may write.
        secret: a file in it.
        environment: the text of a variable of the process that runs the harness.
        pid: of that process.
        port: a TCP and a UDP port of 127.0.0.1 on which it listens.
        socket: an abstract name of a Unix socket on which it listens.
    """

    folder: str
    secret: str
    environment: str
    pid: int
    port: int
    socket: str


@dataclasses.dataclass(frozen=True)
class Hostile:
    """One program.

    Attributes:
        name: what it does.
        kind: the class of the attack.
        source: the program; {folder}, and the other names of Target in braces, stand for what it aims at.
        language: "python" (a program with a test), or "c" (compiled and run; it returns 0 only if it has succeeded).
        test: the test of a Python program.
        x86: it uses system calls by the numbers of x86_64.
    """

    name: str
    kind: str
    source: str
    language: str = "python"
    test: str = TEST
    x86: bool = False

    def aimed(self, target: Target) -> str:
        """The source for a target."""
        source = self.source
        for field in dataclasses.fields(target):
            source = source.replace("{" + field.name + "}", str(getattr(target, field.name)))
        return source


def forging(name: str, source: str, test: str = TEST) -> Hostile:
    """A program whose aim is to pass."""
    return Hostile(name, FORGING, textwrap.dedent(source).lstrip("\n"), test=test)


def attack(name: str, kind: str, body: str) -> Hostile:
    """A program that runs the body of a function, whose true result means that it has succeeded."""
    body = textwrap.dedent(body)
    x86 = "syscall" in body
    prelude = _LIBRARY if "libc" in body else ""
    source = prelude + _ATTACK.replace("BODY", textwrap.indent(body.strip("\n"), "    "))
    return Hostile(name, kind, source, x86=x86)


def c_program(name: str, kind: str, source: str) -> Hostile:
    """A program in C that prints ESCAPED itself."""
    return Hostile(name, kind, textwrap.dedent(source).lstrip("\n"), language="c", x86=True)
