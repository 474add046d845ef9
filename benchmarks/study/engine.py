"""Runs steps in processes of one core each, in the order of what depends on them, and resumes."""

import contextlib
import dataclasses
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, lock
from codellama_jax.runtime.cli import die_with_parent
from codellama_jax.runtime.signals import StopSignals
from study.step import Step, digest, remaining_minutes

ROOT = Path(__file__).resolve().parents[2]
DONE = "done.json"  # of a step: written when its command has succeeded
_SPENT = "spent.json"  # of a step: seconds of processor time of its commands that were interrupted
_POLL_SECONDS = 0.2
_EARLIER_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Setup:
    """What all steps share.

    Attributes:
        out: the experiment's folder.
        size: the size file.
        problems: exercises of an evaluation.
    """

    out: Path
    size: str
    problems: int


@dataclasses.dataclass(frozen=True)
class Task:
    """A step with one seed.

    Attributes:
        step: the step.
        seed: number of the seed.
        setup: what all steps share.
    """

    step: Step
    seed: int
    setup: Setup

    @property
    def name(self) -> str:
        return f"{self.step.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Of the steps of this seed."""
        return self.setup.out / f"seed{self.seed}"

    @property
    def log(self) -> Path:
        """Of the command's output."""
        return self.folder / "logs" / f"{self.step.name}.log"

    @property
    def command(self) -> list[str]:
        """The arguments of the interpreter."""
        values = dataclasses.asdict(self.setup) | {"tokenizer": tokenizer_path(self.setup.out)}
        return self.step.command(values | {"folder": self.folder, "seed": self.seed})

    @property
    def done(self) -> bool:
        """Whether its command has succeeded.

        Raises:
            UserError: another command made what is there.
        """
        recorded = self._record()
        if recorded is None:
            return False
        if recorded["digest"] != digest(self.command, self.setup.out):
            raise UserError(
                f"{self.folder / self.step.name} was made by another command than the present one: remove it to make it"
                " again, with what was made from it, or choose another --out"
            )
        return True

    @property
    def seconds(self) -> float:
        """Of processor time that it took, with what was interrupted."""
        recorded = self._record()
        return float(recorded["seconds"]) if recorded else 0.0

    def _record(self) -> dict | None:
        try:
            return json.loads((self.folder / self.step.name / DONE).read_text())
        except FileNotFoundError:
            return None

    def record(self, seconds: float, succeeded: bool) -> None:
        """Stores that its command has ended, and the processor time that it took."""
        folder = self.folder / self.step.name
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            seconds += json.loads((folder / _SPENT).read_text())
        if not succeeded:
            filesystem.write_atomically(folder / _SPENT, f"{seconds:.1f}\n")
            return
        content = {
            "digest": digest(self.command, self.setup.out),
            "seconds": round(seconds, 1),
            "command": self.command,
        }
        filesystem.write_atomically(folder / DONE, json.dumps(content, indent=1) + "\n")


def tokenizer_path(out: Path) -> Path:
    """The tokenizer of all steps."""
    return out / "tokenizer.model"


def run(tasks: Sequence[Task], cores: Sequence[int], on_step: Callable[[], object]) -> bool:
    """Runs the tasks that are not done, each on one core. Calls `on_step` after each.

    Returns:
        Whether a signal stopped it. Training has then saved its state; the other commands keep what they have written.

    Raises:
        UserError: a command failed. The others have ended first.
    """
    waiting = [task for task in tasks if not task.done]
    _wait_for_earlier_processes(waiting)
    ended = {(task.seed, task.step.name) for task in tasks} - {(task.seed, task.step.name) for task in waiting}
    chains = remaining_minutes([task.step for task in tasks if task.seed == tasks[0].seed])
    # one seed after the other, so that an interrupted experiment has complete seeds; long chains first
    waiting.sort(key=lambda task: (task.seed, -chains[task.step.name]))
    total = len(tasks)
    running: dict[int, tuple[Task, subprocess.Popen, float]] = {}
    failed: list[str] = []

    def forward(number: int) -> None:
        for _, process, _ in running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    with StopSignals(forward) as stop:
        while running or (waiting and not stop.received and not failed):
            for core, (task, process, began) in list(running.items()):
                before = _processor_seconds()
                if process.poll() is None:
                    continue
                task.record(_processor_seconds() - before, succeeded=process.returncode == 0)
                del running[core]
                if process.returncode == 0:
                    ended.add((task.seed, task.step.name))
                    print(f"{len(ended)}/{total} {task.name}: {time.monotonic() - began:.0f} s", flush=True)
                    on_step()
                elif not stop.received:
                    failed.append(f"{task.name} failed ({process.returncode}): {_last_line(task)}; {task.log}")
                    forward(signal.SIGTERM)
            for core in cores:
                if core in running or stop.received or failed:
                    continue
                ready = (t for t in waiting if all((t.seed, need) in ended for need in t.step.needs))
                if (task := next(ready, None)) is not None:
                    waiting.remove(task)
                    running[core] = (task, _start(task, core), time.monotonic())
            time.sleep(_POLL_SECONDS)
        stopped = stop.received
    if failed:
        raise UserError(failed[0])
    return stopped


def _wait_for_earlier_processes(tasks: Sequence[Task]) -> None:
    """Waits until no process of an experiment that was killed works on these tasks: it may be saving."""
    folders = [folder for task in tasks for folder in (task.folder / task.step.name).glob("*") if folder.is_dir()]
    deadline = time.monotonic() + _EARLIER_SECONDS
    while time.monotonic() < deadline and any(lock.holder(folder) for folder in folders):
        time.sleep(_POLL_SECONDS)


def _processor_seconds() -> float:
    """Of the commands that have ended, with all their processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _start(task: Task, core: int) -> subprocess.Popen:
    log = task.log
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *task.command],
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=functools.partial(_prepare, core),
        )


def _prepare(core: int) -> None:
    die_with_parent(signal.SIGTERM)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def _environment() -> Mapping[str, str]:
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _last_line(task: Task) -> str:
    lines = task.log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it printed nothing"])[-1].removeprefix("error: ")


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def tasks_of(steps: Sequence[Step], seeds: int, setup: Setup) -> list[Task]:
    """Every step with every seed."""
    return [Task(step, seed, setup) for seed in range(seeds) for step in steps]
