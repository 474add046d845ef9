"""The process that stands between the pool and programs: it is forked for each job.

Everything forks from it, so that Python is started, and its modules are imported, only once. It reads no job itself:
a fork has the memory of its parent, also what that has freed, and a program could find there the test that judges it,
or the solution of an earlier one.
"""

import contextlib
import gc
import importlib
import os
import select
import signal
import sys
from typing import Any

from codellama_jax.sandbox.inside import box, frames, seccomp, system
from codellama_jax.sandbox.inside.run import Run

_UID = 1000  # of programs, inside
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
    jobs, outcomes = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    supervisor = Supervisor(options, null, jobs)
    try:
        supervisor.prepare()
        frames.write(outcomes, {"ready": True})
    except OSError as error:
        frames.write(outcomes, {"failed": str(error)})
        return
    code = 0
    while not code:
        select.select([jobs], [], [])
        child = os.fork()
        if not child:
            code = 1
            try:
                frames.write(outcomes, supervisor.run(frames.read(jobs)))
                code = 0
            finally:
                os._exit(code)
        _, code = os.waitpid(child, 0)


class Supervisor:
    """Runs one job at a time; see main."""

    def __init__(self, options: dict[str, Any], null: int, jobs: int):
        self._options, self._null, self._jobs = options, null, jobs
        self._filter: seccomp.Filter | None = None

    def prepare(self) -> None:
        """Gives up what is not needed and tries the sandbox. Raises OSError."""
        if self._options["isolated"]:
            uid = self._options["uid"]
            if uid:
                system.uncover_proc()
                try:
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                except OSError as error:
                    raise OSError(f"root cannot become the user {uid} here: {error.strerror}") from None
            system.enter_user_namespace(_UID)
            system.drop_bounds()
            box.set_environment()
        if seccomp.supported():
            self._filter = seccomp.Filter(seccomp.filter_program(os.uname().machine))
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
        return Run(job, self._options, self._filter, self._null, self._jobs).outcome()
