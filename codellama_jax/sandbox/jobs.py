"""What the sandbox runs, within which limits, and what comes out."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

MIB = 2**20
WALL_FACTOR = 10  # a program may wait for the processor this much longer than it may use it

Status = Literal[
    "passed",  # the test ran to its end, or the last step ended with exit code 0
    "failed",  # an assertion of the test failed
    "error",  # the program, or the test, raised another exception, or exited
    "no_test",  # the test ended without asserting anything about the program
    "cpu_time",
    "wall_time",
    "memory",
    "output",  # more output than the limit
]


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a program may use, with all its processes.

    Attributes:
        cpu_seconds: processor time. The limit of elapsed time is WALL_FACTOR times this, so that a verdict does not
            depend on what else the machine does.
        memory: bytes of memory of all processes together.
        processes: number of processes and threads.
        scratch: bytes of files, all of which are in one folder in memory.
        open_files: number of open files of a process.
        output: bytes of standard output, and of standard error.
    """

    cpu_seconds: float = 3.0
    memory: int = 512 * MIB
    processes: int = 32
    scratch: int = 32 * MIB
    open_files: int = 128
    output: int = MIB


@dataclasses.dataclass(frozen=True)
class PythonTest:
    """A Python program, and a test of the functions and classes that it defines.

    They run in two processes, each in a sandbox of its own. The test's process calls the program's functions, and
    receives copies of what they return; only it decides. So a program passes by returning the right values and in no
    other way: neither by exiting, nor with objects that are equal to everything, nor by replacing built-in functions.

    Attributes:
        program: source code.
        test: source code, which reads the names that the program defines. It passes if it ends after at least one
            assertion, and none has failed. Helper functions of a benchmark belong here: what the test defines itself
            is not taken from the program.
        limits: of each of the two processes.
        names: names for which the program answers although Python has functions or modules of these names, such as a
            function `sum` that is tested. Otherwise the test's are Python's own.
    """

    program: str
    test: str
    limits: Limits = Limits()
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class PythonScript:
    """A Python program that reads standard input and writes standard output. "passed": it ends with exit code 0."""

    program: str
    stdin: str = ""
    limits: Limits = Limits()


@dataclasses.dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        argv: the command; the first is the name of a program on PATH, or the path of a file in the scratch folder.
        stdin: its standard input.
        limits: its limits; None: those of the job.
    """

    argv: tuple[str, ...]
    stdin: str = ""
    limits: Limits | None = None


@dataclasses.dataclass(frozen=True)
class Commands:
    """Commands that run one after another in a scratch folder, for example a compiler and what it wrote.

    The job ends at the first command that fails. "passed": all ended with exit code 0.

    Attributes:
        files: name -> content, written to the scratch folder first. Names may have folders.
        steps: the commands.
        limits: of the steps that have none of their own. Its `scratch` is that of the job.
    """

    files: Mapping[str, str]
    steps: tuple[Step, ...]
    limits: Limits = Limits()


Job = PythonTest | PythonScript | Commands


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a job came to.

    Attributes:
        status: see Status.
        message: one line: the exception, or what was exceeded; "" if passed.
        stdout: the program's standard output, as text; undecodable bytes are replaced.
        stderr: its standard error, and the traceback of an exception.
        exit_code: of the last process of Commands and PythonScript; negative: minus the signal; None: it was stopped.
        step: index of the last step of Commands that ran.
        cpu_seconds: processor time used.
        wall_seconds: time elapsed.
    """

    status: Status
    message: str = ""
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    step: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status == "passed"
