"""A pool of sandboxes that run jobs side by side.

with Pool(workers=2) as pool:
    outcome = pool.submit(PythonTest(program, test)).result()
"""

import contextlib
import dataclasses
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.sandbox import bubblewrap
from codellama_jax.sandbox.inside import frames
from codellama_jax.sandbox.jobs import WALL_FACTOR, Commands, Job, Limits, Outcome, PythonScript, PythonTest

_TRIAL = Limits(cpu_seconds=10)
START_SECONDS = 60.0  # in which a sandbox must have started and tried itself, on a loaded machine too
_REMEDY = (
    "it needs Linux with user namespaces (in a container: --security-opt seccomp=unconfined, or a privileged one);"
    " --allow_unsandboxed runs programs with limits of time and memory only"
)


class Pool:
    """Sandboxes that are started once and then run many jobs.

    Args:
        workers: number of jobs that run at a time; 0: one for each processor.
        unsandboxed: runs jobs with limits of time and memory only: they can read and write what this user can.
        packages: a folder of packages that programs can import, such as NumPy, beside the standard library.
        tools: files and folders that Commands read, outside of the folders of the system, which are visible anyway.

    Raises:
        UserError: the sandbox cannot be started here; the message says why, and what helps.
    """

    def __init__(
        self,
        workers: int = 0,
        unsandboxed: bool = False,
        packages: Path | None = None,
        tools: Sequence[Path] = (),
    ):
        if packages is not None and not packages.is_dir():
            raise UserError(f"{packages}, the folder of packages for programs, does not exist")
        self._jobs: queue.SimpleQueue[tuple[Job, Future[Outcome]] | None] = queue.SimpleQueue()
        count = workers or os.cpu_count() or 1
        self._workers = [_Worker(index, unsandboxed, packages, tools, self._jobs) for index in range(count)]
        for worker in self._workers:
            worker.thread.start()
        try:
            for worker in self._workers:
                worker.ready.result()
        except BaseException:
            self.close()
            raise

    def submit(self, job: Job) -> Future[Outcome]:
        """Queues a job. May be called from any thread; jobs start in the order of submission."""
        future: Future[Outcome] = Future()
        self._jobs.put((job, future))
        return future

    def close(self) -> None:
        """Stops everything; jobs that have not ended are cancelled."""
        for worker in self._workers:
            worker.stop()
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            if worker.thread.is_alive():
                worker.thread.join()
        with contextlib.suppress(queue.Empty):
            while True:
                if item := self._jobs.get_nowait():
                    item[1].cancel()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Worker:
    """One supervisor, and the thread that gives it jobs.

    The thread starts the process too: the kernel ends the container when the thread that started it ends.
    """

    def __init__(
        self, index: int, unsandboxed: bool, packages: Path | None, tools: Sequence[Path], jobs: queue.SimpleQueue
    ):
        self._index, self._unsandboxed, self._jobs = index, unsandboxed, jobs
        self._packages = packages.absolute() if packages is not None else None
        self._visible = [path for path in (self._packages, *tools) if path is not None]
        self._process: subprocess.Popen | None = None
        self._stopped = False
        self.ready: Future[None] = Future()
        self.thread = threading.Thread(target=self._run, name=f"sandbox {index}", daemon=True)

    def stop(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def _run(self) -> None:
        try:
            self._start()
            self.ready.set_result(None)
        except BaseException as error:
            self.ready.set_exception(error)
            return
        try:
            while not self._stopped and (item := self._jobs.get()) is not None:
                job, future = item
                if future.set_running_or_notify_cancel():
                    self._do(job, future)
        finally:
            self._end()

    def _do(self, job: Job, future: Future[Outcome]) -> None:
        """Runs a job. One during which the supervisor dies is tried once more, in a new one."""
        for _ in range(2):
            try:
                future.set_result(Outcome(**self._ask(_messages(job))))
                return
            except (OSError, EOFError, ValueError):
                if self._stopped:
                    future.set_exception(CancelledError())
                    return
                self._end()
                try:
                    self._start()  # it also tries whether a sandbox works here
                except UserError as error:
                    future.set_exception(error)
                    return
        future.set_result(Outcome("error", "the sandbox ended twice during this program"))

    def _start(self) -> None:
        options = {
            "isolated": not self._unsandboxed,
            "wall_factor": WALL_FACTOR,
            "uid": bubblewrap.uid(self._index),
            "trial": dataclasses.asdict(_TRIAL),
            "path": os.environ.get("PATH") if self._unsandboxed else None,
            "packages": str(self._packages) if self._packages is not None else None,
        }
        source = f"from codellama_jax.sandbox.inside import supervisor; supervisor.main({options!r})"
        command = bubblewrap.python(source) if self._unsandboxed else bubblewrap.command(source, self._visible)
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(f"no sandbox: {command[0]}: {error.strerror}; {_REMEDY}") from None
        hung = threading.Timer(START_SECONDS, os.killpg, [self._process.pid, signal.SIGKILL])
        hung.daemon = True
        hung.start()
        try:
            answer = self._read()
        except (OSError, EOFError, ValueError):
            if hung.finished.is_set():
                raise UserError(f"no sandbox: it did not start within {START_SECONDS:g} s; {_REMEDY}") from None
            assert self._process.stderr is not None
            self._process.wait()
            lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            raise UserError(f"no sandbox: {lines[-1] if lines else 'it ended at once'}; {_REMEDY}") from None
        finally:
            hung.cancel()
        if "failed" in answer:
            raise UserError(f"no sandbox: {answer['failed']}; {_REMEDY}")

    def _ask(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        for message in messages:
            frames.write(self._process.stdin.fileno(), message)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        return frames.read(self._process.stdout.fileno())

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _messages(job: Job) -> list[dict[str, Any]]:
    """A job as the supervisor reads it. What judges a program comes separately, and is not read by its process."""
    limits = dataclasses.asdict(job.limits)
    match job:
        case PythonTest():
            test = {"test": job.test, "names": list(job.names)}
            return [{"kind": "test", "program": job.program, "limits": limits}, test]
        case PythonScript():
            return [{"kind": "script", "program": job.program, "stdin": job.stdin, "limits": limits}]
        case Commands():
            steps = [
                {
                    "argv": list(step.argv),
                    "stdin": step.stdin,
                    "limits": dataclasses.asdict(step.limits) if step.limits else limits,
                }
                for step in job.steps
            ]
            return [{"kind": "commands", "files": dict(job.files), "steps": steps, "limits": limits}]
