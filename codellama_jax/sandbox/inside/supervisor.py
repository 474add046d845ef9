"""The process that stands between the pool and programs: it starts a sandbox for each job, watches it, and reports.

It reads jobs from standard input and writes outcomes to standard output, each a JSON line. Programs are forks of it, so
that Python is started, and its modules are imported, only once.
"""

import contextlib
import gc
import importlib
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

from . import program, seccomp, system, tester
from .box import Box, Role
from .usage import descendants

_UID = 1000  # of programs, inside
_SHORT, _LONG = 0.005, 0.02  # seconds between two looks at what a job uses: at its start, and later
# What programs of benchmarks import most often: a fork has it at once.
_IMPORTED = (
    "abc array bisect cmath collections collections.abc copy dataclasses datetime decimal enum fractions functools"
    " hashlib heapq io itertools json math operator os queue random re statistics string struct sys textwrap time"
    " traceback typing unittest uuid"
)

_PACKAGES = ("numpy",)  # of a folder of packages, the same


def main(options: dict[str, Any]) -> None:
    """Runs jobs until standard input ends.

    Args:
        options: "isolated": whether jobs get namespaces; "wall_factor": see jobs.WALL_FACTOR; "uid": the user to become
            first, or 0; "packages": a folder of packages, or None; "trial": the limits of a first job; "path": PATH for
            jobs that are not isolated.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of the terminal is for the command alone
    jobs, outcomes = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    supervisor = Supervisor(options, null)
    try:
        supervisor.prepare()
        _send(outcomes, {"ready": True})
    except OSError as error:
        _send(outcomes, {"failed": str(error)})
        return
    for line in jobs:
        _send(outcomes, supervisor.run(json.loads(line)))


def _send(descriptor: int, message: dict) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]


class Supervisor:
    """Runs one job at a time; see main."""

    def __init__(self, options: dict[str, Any], null: int):
        self._options, self._null = options, null
        self._filter = b""

    def prepare(self) -> None:
        """Gives up what is not needed and tries the sandbox. Raises OSError."""
        if self._options["isolated"]:
            uid = self._options["uid"]
            if uid:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            system.enter_user_namespace(_UID)
        if seccomp.supported():
            self._filter = seccomp.filter_program(os.uname().machine)
        elif self._options["isolated"]:
            raise OSError(f"there is no system-call filter for the processor {os.uname().machine}")
        names = _IMPORTED.split()
        if self._options["packages"]:
            sys.path.append(self._options["packages"])
            os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a fork has no threads of its parent
            names += _PACKAGES
        for name in names:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        outcome = self.run({"kind": "script", "program": "print(6 * 7)", "stdin": "", "limits": self._options["trial"]})
        if outcome["stdout"] != "42\n":
            raise OSError(f"a first program did not run: {outcome['message'] or outcome['stderr']}")
        gc.collect()
        gc.freeze()

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """The outcome of a job, the fields of jobs.Outcome."""
        scratch = None if self._options["isolated"] else tempfile.mkdtemp(prefix="sandbox_")
        try:
            return _Run(job, self._options, self._filter, self._null, scratch).outcome()
        finally:
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)


class _Run:
    """One job."""

    def __init__(self, job: dict, options: dict, filter_program: bytes, null: int, scratch: str | None):
        self._job, self._null, self._wall_factor = job, null, options["wall_factor"]
        self._box_options = {
            "isolated": options["isolated"],
            "scratch": scratch,
            "size": job["limits"]["scratch"],
            "files": job.get("files", {}),
            "command": job["kind"] == "commands",
            "filter": filter_program,
            "path": options["path"],
        }
        self._boxes: list[Box] = []
        self._limits: list[dict] = []  # of each box, now
        self._output = {"stdout": bytearray(), "stderr": bytearray()}
        self._started = time.monotonic()
        self._step, self._step_started, self._step_cpu = 0, self._started, 0.0
        self._code: int | None = None
        self._verdict: dict[str, Any] | None = None
        self._readers: dict[int, Callable[[bytes], None]] = {}  # descriptor -> what takes its data; b"": it has ended
        self._lines: dict[int, bytearray] = {}

    def outcome(self) -> dict[str, Any]:
        self._start()
        status, message = self._watch()
        # The kernel does not add up the time of processes that it kills with their namespace.
        seen = [cpu for cpu, _ in self._usage()]
        cpu = [max(box.kill(), before) for box, before in zip(self._boxes, seen, strict=True)]
        self._drain()
        for descriptor in self._readers:
            os.close(descriptor)
        errors = self._output["stderr"].decode(errors="replace")
        if self._verdict and self._verdict.get("trace"):
            errors += self._verdict["trace"]
        return {
            "status": status,
            "message": message,
            "stdout": self._output["stdout"].decode(errors="replace"),
            "stderr": errors,
            "exit_code": self._code,
            "step": self._step,
            "cpu_seconds": sum(cpu),
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
            roles = [(_decide(job["test"], job["names"]), job["limits"])]
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
        looked = self._started
        while True:
            now = time.monotonic()
            wait = _SHORT if now - self._started < 0.05 else _LONG
            for descriptor, _ in poll.poll(1000 * wait):
                data = os.read(descriptor, 65536)
                if not data:
                    poll.unregister(descriptor)
                self._readers[descriptor](data)
                if end := self._end():
                    return end
            if time.monotonic() - looked >= wait:
                looked = time.monotonic()
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
                    self._step_started, self._step_cpu = time.monotonic(), self._usage()[0][0]

    def _end(self) -> tuple[str, str] | None:
        """Status and message if the job has ended."""
        for name, data in self._output.items():
            if len(data) > self._limits[0]["output"]:
                del data[self._limits[0]["output"] :]
                return "output", f"more than {self._limits[0]['output']:,} bytes of standard {name[3:]}put"
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

    def _exceeded(self) -> tuple[str, str] | None:
        """Status and message if a limit is exceeded."""
        for index, (cpu, memory) in enumerate(self._usage()):
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

    def _usage(self) -> list[tuple[float, int]]:
        """Processor time in seconds, and memory in bytes, of each box."""
        return descendants([box.pid for box in self._boxes])

    def _drain(self) -> None:
        """Reads what programs had written before they were killed."""
        for descriptor, take in self._readers.items():
            os.set_blocking(descriptor, False)
            with contextlib.suppress(OSError):
                while (data := os.read(descriptor, 65536)) and len(self._output["stdout"]) < self._limits[0]["output"]:
                    take(data)


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
