"""External commands as values, so that --dry_run prints exactly the commands that a run executes."""

import contextlib
import dataclasses
import os
import re
import select
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable
from typing import IO

from codellama_jax.runtime.signals import Stopped, StopSignals

POLL_SECONDS = 0.1  # between looks at the stop signals
KILL_SECONDS = 5.0  # from SIGTERM to SIGKILL
_KUBECTL_LOG = re.compile(r"[EWIF]\d{4} ")  # kubectl logs each of its own retries, before the error
MAX_LINE_CHARACTERS = 110  # a longer command is printed with one flag per line


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        argv: the program and its arguments.
        purpose: a short description, printed as a comment.
        stdin: text for standard input.
    """

    argv: tuple[str, ...]
    purpose: str = ""
    stdin: str = ""

    def shell_text(self) -> str:
        """The command as text for a shell, with its purpose as a comment."""
        line = shlex.join(self.argv)
        if len(line) > MAX_LINE_CHARACTERS:
            words = [shlex.quote(word) for word in self.argv]
            first_flag = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
            line = " \\\n    ".join([" ".join(words[:first_flag]), *words[first_flag:]])
        if self.stdin:
            line += f" <<'EOF'\n{self.stdin.rstrip()}\nEOF"
        return f"# {self.purpose}\n{line}" if self.purpose else line


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a command.

    Attributes:
        code: its exit code, as a shell reports it (128 + N after signal N).
        stdout, stderr: its output.
    """

    code: int
    stdout: bytes
    stderr: str

    @property
    def reason(self) -> str:
        """The most informative line of stderr."""
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        lines = [line for line in lines if not _KUBECTL_LOG.match(line)] or lines
        errors = [line for line in lines if "error" in line.lower()] or lines or [f"exit code {self.code}"]
        return errors[0].removeprefix("ERROR: ")[:300]


def execute(
    command: Command,
    stop: StopSignals | None = None,
    allowed: int = 0,
    on_output: Callable[[bytes], None] | None = None,
) -> Result:
    """Runs a command until it ends. Ctrl-C on the terminal does not reach it.

    Args:
        command: the command to run.
        stop: counts the signals that ask the launcher to stop. None: the command is never interrupted.
        allowed: number of stop signals to ignore; the command is ended at the next one.
        on_output: called with each chunk of stdout as it arrives.

    Raises:
        Stopped: the command was ended because of a stop signal, or not started.
        FileNotFoundError: there is no such program.
    """
    if stop is not None and stop.count > allowed:
        raise Stopped
    stdout = bytearray()
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(command.stdin.encode())
        stdin.seek(0)
        process = subprocess.Popen(
            command.argv, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        output = select.poll()
        output.register(process.stdout, select.POLLIN)
        try:
            while process.poll() is None:
                is_open = _drain(process.stdout, stdout, on_output)
                if stop is not None and stop.count > allowed:
                    raise Stopped
                if is_open:
                    output.poll(1000 * POLL_SECONDS)  # also returns when the pipe is closed
                else:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_SECONDS)
            _drain(process.stdout, stdout, on_output)
        finally:
            _end(process)
            process.stdout.close()
        stderr.seek(0)
        code = process.returncode
        return Result(code if code >= 0 else 128 - code, bytes(stdout), stderr.read().decode(errors="replace"))


def _drain(pipe: IO[bytes], output: bytearray, on_output: Callable[[bytes], None] | None) -> bool:
    """Moves the bytes that are available in a non-blocking pipe to `output`. Returns whether more can follow."""
    while chunk := pipe.read():
        output.extend(chunk)
        if on_output:
            on_output(chunk)
    return chunk is None


def _end(process: subprocess.Popen) -> None:
    """Ends a process and its children if it is still running."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
