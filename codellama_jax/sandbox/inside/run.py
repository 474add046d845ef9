"""One job: its sandboxes, the limits that are watched while they run, and its outcome."""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from codellama_jax.sandbox.inside import frames, program, seccomp, tester
from codellama_jax.sandbox.inside.box import Box, Role
from codellama_jax.sandbox.inside.usage import Meter

_INTERVAL = 0.02  # seconds between two looks at what a job uses


class Run:
    """One job; its outcome is asked for once."""

    def __init__(self, job: dict, options: dict, system_calls: seccomp.Filter | None, null: int, jobs: int):
        self._job, self._null, self._jobs, self._wall_factor = job, null, jobs, options["wall_factor"]
        self._box_options = {
            "alone": False,
            "isolated": options["isolated"],
            "scratch": None if options["isolated"] else tempfile.mkdtemp(prefix="sandbox_"),
            "size": job["limits"]["scratch"],
            "files": job.get("files", {}),
            "command": job["kind"] == "commands",
            "filter": system_calls,
            "path": options["path"],
        }
        self._parent = os.getppid()
        self._boxes: list[Box] = []
        self._meter = Meter()
        self._limits: list[dict] = []  # of each box, now
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._started = time.monotonic()
        self._step, self._step_started, self._step_cpu = 0, self._started, 0.0
        self._code: int | None = None
        self._verdict: dict[str, Any] | None = None
        self._readers: dict[int, Callable[[bytes], None]] = {}  # descriptor -> what takes its data; b"": it has ended
        self._lines: dict[int, bytearray] = {}

    def outcome(self) -> dict[str, Any]:
        """Runs it; the fields of jobs.Outcome."""
        try:
            self._start()
            status, message = self._watch()
            self._meter.look()
        finally:
            used = [box.kill() for box in self._boxes]
            if scratch := self._box_options["scratch"]:
                shutil.rmtree(scratch, ignore_errors=True)
        self._drain()
        # What a program wrote before its last answer counts, whichever of the two was read first.
        if excess := self._excess():
            status, message = excess
        for descriptor in self._readers:
            os.close(descriptor)
        errors = self._output["stderr"].decode(errors="replace")
        if self._verdict and self._verdict.get("trace"):
            errors += self._verdict["trace"]
        return {
            "status": status,
            "message": _printable(message),
            "stdout": self._output["stdout"].decode(errors="replace"),
            "stderr": errors.encode(errors="replace").decode(),
            "exit_code": None if self._job["kind"] == "test" else self._code,
            "step": self._step,
            # The kernel does not add up the time of processes that it kills with their namespace.
            "cpu_seconds": sum(max(pair) for pair in zip(used, self._meter.seconds, strict=True)),
            "wall_seconds": time.monotonic() - self._started,
        }

    # --- start

    def _start(self) -> None:
        job = self._job
        standard = [self._null, self._reader("stdout"), self._reader("stderr")]
        if job["kind"] == "test":
            ours, theirs = socket.socketpair()
            verdict, write = os.pipe()
            self._box([(_serve(job["program"]), job["limits"])], [self._null, *standard[1:], theirs.fileno()])
            test = frames.read(self._jobs)  # only now: the program's process is a fork of this one
            roles = [(_decide(test["test"], test["names"]), job["limits"])]
            self._box_options["alone"] = self._box_options["isolated"]  # a test starts no process
            self._box(roles, [self._null, self._null, self._null, ours.fileno(), write])
            os.close(write)
            ours.close()
            theirs.close()
            self._readers[verdict] = self._take_verdict
            self._verdict_text = bytearray()
        elif job["kind"] == "script":
            self._box([(_script(job["program"], job["stdin"]), job["limits"])], standard)
        else:
            steps = [(_command(step["argv"], step["stdin"]), step["limits"]) for step in job["steps"]]
            self._box(steps, standard)
        for descriptor in standard[1:]:
            os.close(descriptor)

    def _box(self, roles: list[tuple[Role, dict]], descriptors: list[int]) -> None:
        box = Box(roles, descriptors, self._box_options)
        self._boxes.append(box)
        self._meter.add(box.pid)
        self._limits.append(roles[0][1])
        self._lines[box.steps] = bytearray()
        index = len(self._boxes) - 1
        self._readers[box.steps] = lambda data: self._take_step(index, roles, data)

    def _reader(self, name: str) -> int:
        """A pipe whose data is kept; the end to write."""
        read, write = os.pipe()
        self._readers[read] = lambda data: self._output[name].extend(data)
        return write

    # --- watch

    def _watch(self) -> tuple[str, str]:
        """Waits for the end of the job; its status and message."""
        poll = select.poll()
        open_descriptors = set(self._readers)
        for descriptor in open_descriptors:
            poll.register(descriptor, select.POLLIN)
        poll.register(self._jobs, 0)
        looked = self._started
        while True:
            for descriptor, _ in poll.poll(1000 * _INTERVAL):
                if descriptor == self._jobs:
                    raise EOFError("the command has ended")
                data = os.read(descriptor, 65536)
                if not data:
                    poll.unregister(descriptor)
                self._readers[descriptor](data)
                if end := self._end():
                    return end
            if time.monotonic() - looked >= _INTERVAL:
                looked = time.monotonic()
                if os.getppid() != self._parent:
                    raise EOFError("the supervisor has ended")
                if exceeded := self._exceeded():
                    return exceeded

    def _take_verdict(self, data: bytes) -> None:
        self._verdict_text += data
        if not data:
            try:
                self._verdict = json.loads(self._verdict_text)
            except ValueError:
                self._verdict = {"status": "error", "message": "the test ended early"}

    def _take_step(self, index: int, roles: list[tuple[Role, dict]], data: bytes) -> None:
        lines = self._lines[self._boxes[index].steps]
        lines += data
        if not data and index == 0 and self._code is None:
            self._code = -signal.SIGKILL  # the first process was ended from outside
        while b"\n" in lines:
            line, _, rest = bytes(lines).partition(b"\n")
            lines[:] = rest
            report = json.loads(line)
            if "broken" in report:
                self._verdict, self._code = {"status": "error", "message": report["broken"]}, 127
            elif index == 0:
                self._step, self._code = report["step"], report["code"]
                if report["code"] == 0 and report["step"] + 1 < len(roles):
                    self._step, self._code = report["step"] + 1, None
                    self._limits[0] = roles[self._step][1]
                    self._meter.look()
                    self._step_started, self._step_cpu = time.monotonic(), self._meter.seconds[0]

    def _end(self) -> tuple[str, str] | None:
        """Status and message if the job has ended."""
        if excess := self._excess():
            return excess
        if self._verdict is not None:
            status = self._verdict["status"]
            if status == "error" and self._code == -signal.SIGXCPU:
                return "cpu_time", self._too_long()
            return status, self._verdict["message"]
        if self._job["kind"] == "test" or self._code is None:
            return None  # the test decides
        if self._code == -signal.SIGXCPU:
            return "cpu_time", self._too_long()
        if self._code < 0:
            name = signal.Signals(-self._code).name if -self._code in set(signal.Signals) else str(-self._code)
            return "error", f"ended by the signal {name}"
        if self._code:
            last = self._output["stderr"].decode(errors="replace").strip().rpartition("\n")[2]
            return "error", last[:500] or f"exit code {self._code}"
        return "passed", ""

    def _excess(self) -> tuple[str, str] | None:
        """Status and message if there is more output than allowed."""
        most = self._limits[0]["output"]
        for name, data in self._output.items():
            if len(data) > most:
                del data[most:]
                return "output", f"more than {most:,} bytes of standard {'output' if name == 'stdout' else 'error'}"
        return None

    def _exceeded(self) -> tuple[str, str] | None:
        """Status and message if a limit is exceeded."""
        self._meter.look()
        for index, (cpu, memory) in enumerate(zip(self._meter.seconds, self._meter.memory, strict=True)):
            limits = self._limits[index]
            if cpu - (self._step_cpu if index == 0 else 0) > limits["cpu_seconds"]:
                return "cpu_time", self._too_long()
            if memory > limits["memory"]:
                return "memory", f"more than {limits['memory'] >> 20:,} MiB of memory"
        wall = self._wall_factor * self._limits[0]["cpu_seconds"]
        if time.monotonic() - self._step_started > wall:
            return "wall_time", f"more than {wall:g} seconds of elapsed time"
        return None

    def _too_long(self) -> str:
        return f"more than {self._limits[0]['cpu_seconds']:g} seconds of processor time"

    def _drain(self) -> None:
        """Reads what programs had written before they were killed: nobody writes any more."""
        for descriptor, take in self._readers.items():
            os.set_blocking(descriptor, False)
            with contextlib.suppress(BlockingIOError):
                while data := os.read(descriptor, 65536):
                    take(data)


def _printable(text: str) -> str:
    """A line that may be shown on a terminal and written to a file, whatever a program has put into it."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _serve(source: str) -> Role:
    def role() -> int:
        program.serve(source, 3)
        return 0

    return role


def _decide(test: str, names: list[str]) -> Role:
    def role() -> int:
        with os.fdopen(4, "w") as verdict:
            verdict.write(json.dumps(tester.run(test, names, 3)))
        return 0

    return role


def _script(source: str, stdin: str) -> Role:
    def role() -> int:
        _read_from(stdin)
        return program.run_script(source)

    return role


def _command(argv: list[str], stdin: str) -> Role:
    def role() -> int:
        _read_from(stdin)
        try:
            os.execvp(argv[0], argv)
        except FileNotFoundError:
            sys.stderr.write(f"{argv[0]}: not found\n")
            sys.stderr.flush()
            return 127

    return role


def _read_from(text: str) -> None:
    """Makes a text the standard input of this process. It is a file without a name in the scratch folder."""
    if text:
        with tempfile.TemporaryFile(dir=".") as file:
            file.write(text.encode(errors="surrogateescape"))
            file.seek(0)
            os.dup2(file.fileno(), 0, inheritable=True)
