"""Commands of other programs, as one object that is either shown or executed: what was shown is what runs."""

import dataclasses
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable

from launch.signals import Stopped, StopRequests

POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        argv: the program and its arguments.
        why: what it is for, in a few words.
        stdin: what it reads.
    """

    argv: tuple[str, ...]
    why: str = ""
    stdin: str = ""

    def shown(self) -> str:
        """The command as it can be given to a shell, a flag a line where it is long."""
        line = shlex.join(self.argv)
        if len(line) > 110:
            words, start = [shlex.quote(word) for word in self.argv], 0
            start = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
            line = " \\\n    ".join([" ".join(words[:start]), *words[start:]])
        if self.stdin:
            line += f" <<'EOF'\n{self.stdin.rstrip()}\nEOF"
        return f"# {self.why}\n{line}" if self.why else line


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended: its exit code as a shell gives it, and its output."""

    code: int
    out: bytes
    err: str

    @property
    def reason(self) -> str:
        """What its messages come to, in one line."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower()] or lines or [f"exit code {self.code}"]
        return telling[0].removeprefix("ERROR: ")[:300]


def execute(
    command: Command,
    asked: StopRequests | None = None,
    allowed: int | None = None,
    seen: Callable[[bytes], None] | None = None,
) -> Result:
    """Runs a command to its end. A Ctrl-C on the terminal does not reach it.

    Args:
        command: what to run.
        asked: counts the requests to stop.
        allowed: when more of them than this have come, the command is ended; None: it is never interrupted.
        seen: is given the output as it comes.

    Raises:
        Stopped: it was ended.
        FileNotFoundError: there is no such program.
    """
    out = bytearray()
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as err:
        stdin.write(command.stdin.encode())
        stdin.seek(0)
        process = subprocess.Popen(
            command.argv, stdin=stdin, stdout=subprocess.PIPE, stderr=err, start_new_session=True
        )
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)

        def drain() -> None:
            while process.stdout and (chunk := process.stdout.read()):
                out.extend(chunk)
                if seen:
                    seen(chunk)

        try:
            while process.poll() is None:
                drain()
                if asked is not None and allowed is not None and asked.count > allowed:
                    raise Stopped
                time.sleep(POLL_SECONDS)
            drain()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            process.stdout.close()
        err.seek(0)
        code = process.returncode
        return Result(code if code >= 0 else 128 - code, bytes(out), err.read().decode(errors="replace"))
