"""What all commands share: flags, exit codes and one-line errors. Also the version of the code."""

import argparse
import functools
import gc
import hashlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from codellama_jax import __version__
from codellama_jax.config import gin_files
from codellama_jax.errors import EXIT_FAILED, EXIT_USAGE, UserError
from codellama_jax.runtime import console

# New objects until the garbage collector searches them, and collections of one generation until it searches the next.
# At Python's 700, 10 and 10 it searches the hundreds of thousands of objects of JAX's modules and of programs again and
# again, none of which is garbage: 0.5 of the 3.7 seconds in which a run starts whose programs are compiled already.
_GARBAGE_THRESHOLDS = (50_000, 20, 100)
PROCESS_STARTED = time.time()  # seconds since the epoch; approximate


def describe_os_error(error: BaseException) -> str | None:
    """One line for the user about an OSError; None for other errors, which are bugs."""
    if not isinstance(error, OSError):
        return None
    if not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line like all others; argparse prints all flags before it."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help explains the flags", EXIT_USAGE)


def run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    body: Callable[[gin_files.Flags, argparse.Namespace], int],
    explain: Callable[[BaseException], str | None] = describe_os_error,
) -> int:
    """Runs a command; returns its exit code.

    Args:
        parser: parser of the arguments other than gin files and --gin flags; --verbose is added.
        argv: the arguments, without the name of the command; None: sys.argv[1:].
        body: executes the command, and returns its exit code.
        explain: returns one line for an error that is not a UserError, or None for a bug, which is raised again, and
            for an interruption without consequences.
    """
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    verbose = False
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    console.configure_logging()
    try:
        flags = gin_files.split_flags(sys.argv[1:] if argv is None else argv)
        options = parser.parse_args(flags.rest)
        verbose = options.verbose
        return body(flags, options)
    except (UserError, KeyboardInterrupt, MemoryError, OSError, RuntimeError) as error:
        line = str(error) if isinstance(error, UserError) else explain(error)
        if line is None and isinstance(error, KeyboardInterrupt):
            line = "interrupted"
        if line is None:
            raise
        if verbose:
            traceback.print_exc()
        print(f"error: {line}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else EXIT_FAILED


@functools.cache
def code_version() -> str:
    """The version of the package and a digest of its source files, which identifies local changes too."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("codellama_jax", "tasks") for path in (root / package).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def die_with_parent(number: signal.Signals) -> None:
    """Asks the kernel to send this process a signal when its parent dies (Linux only)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)
