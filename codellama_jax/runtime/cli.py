"""What the programs of this project share: flags in, an exit code out, errors as one line, an end with their parent."""

import argparse
import functools
import hashlib
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from codellama_jax import __version__
from codellama_jax.config import gin_files
from codellama_jax.errors import EXIT_FAILED, UserError
from codellama_jax.runtime import console

PROCESS_STARTED = time.time()  # of this process, nearly


def explained(error: BaseException) -> str | None:
    """One line for the user; None for what only we can mend."""
    if not isinstance(error, OSError):
        return None
    return f"{error.strerror}: {error.filename}" if error.strerror else str(error)


def run(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    body: Callable[[gin_files.Flags, argparse.Namespace], int],
    explain: Callable[[BaseException], str | None] = explained,
) -> int:
    """Runs a program; returns its exit code.

    Args:
        parser: takes what is left beside gin files and --gin flags; --verbose is added.
        argv: without the program's name; None takes the process's.
        body: the program.
        explain: the line for an error that is no UserError; where it gives None, the error goes on as it is.
    """
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    verbose = False
    console.configure_logging()
    try:
        flags = gin_files.split_flags(sys.argv[1:] if argv is None else argv)
        options = parser.parse_args(flags.rest)
        verbose = options.verbose
        return body(flags, options)
    except (UserError, KeyboardInterrupt, MemoryError, OSError, RuntimeError) as error:
        line = str(error) if isinstance(error, UserError) else explain(error)
        if line is None:
            raise
        if verbose:
            traceback.print_exc()
        print(f"error: {line}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else EXIT_FAILED


@functools.cache
def code_version() -> str:
    """The package's version and a digest of its source, which says what no version number can: what really ran."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("codellama_jax", "tasks") for path in (root / package).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def die_with_parent(number: signal.Signals) -> None:
    """Asks the kernel for a signal when the parent process dies, so that nothing is left behind unseen (Linux only)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)
