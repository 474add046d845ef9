"""Programs that run by turns: each is a process that sleeps while another one runs.

A program prints a line when it is ready. Then, for each line that it reads, it works and prints a line.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Program:
    """A running program.

    Attributes:
        first_line: what it printed when it was ready.
    """

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        self.first_line = self._read()

    def ask(self, line: str) -> str:
        """Gives the program its turn: the line that it prints."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextlib.contextmanager
def running(command: Sequence[str], variables: Mapping[str, str] | None = None) -> Iterator[Program]:
    """Starts a program, waits until it is ready, and ends it on exit. It uses glibc's allocator as the launcher does
    (`variables` are set too). Start one after another, so that only one compiles at a time."""
    from launch.local.executor import (
        ALLOCATOR,  # not at the top, because a Python without this project's packages imports this file too
    )

    environment = os.environ | {"GLIBC_TUNABLES": ALLOCATOR, **(variables or {})}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Program(process)
    finally:
        process.kill()
        process.wait()


def in_order(pair: tuple[Any, Any], round_number: int) -> tuple[Any, Any]:
    """The two of a pair in the order of a round, which alternates."""
    return pair if round_number % 2 == 0 else pair[::-1]
