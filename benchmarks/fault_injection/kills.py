"""Kills runs at random moments and starts them again."""

import argparse
import contextlib
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from result_file import paragraph
from runs import Run, Started, check, same

from codellama_jax.runtime.run_dir import final_step
from fault_injection.workloads import cascade

KILLS_PER_RUN = 10


class Kill(NamedTuple):
    """The state of a run after a kill.

    Attributes:
        moment: the moment of the kill, as in MOMENTS.
        stage: the stage that was running.
        partial_save: whether a save was interrupted.
        lost: number of steps that must be repeated.
    """

    moment: str
    stage: str
    partial_save: bool
    lost: int


def current_stage(run: Run) -> str:
    return "lcft" if final_step(run.folder / "code") is not None else "code"


# ---------------------------------------------------------------- moments: waits; False if the run ended before it


def during_step(started: Started, rng: random.Random) -> bool:
    before = {stage: started.run.last_step(stage) for stage in ("code", "lcft")}
    reached = started.until(lambda: any(started.run.last_step(stage) > before[stage] + 1 for stage in before))
    return reached and _sleep(rng.uniform(0, 1.0))


def during_save(started: Started, rng: random.Random) -> bool:
    run = started.run
    old = {path.stat().st_ino for stage in ("code", "lcft") for path in run.partial_saves(stage)}
    reached = started.until(lambda: any(_inode(path) not in old for path in run.partial_saves(current_stage(run))))
    return reached and _sleep(rng.uniform(0, 0.02))


def after_rename(started: Started, rng: random.Random) -> bool:
    """After a checkpoint is renamed to its final name; usually before the next line is logged and the oldest checkpoint
    removed."""
    before = {stage: started.run.last_saved(stage) for stage in ("code", "lcft")}
    reached = started.until(lambda: any(started.run.last_saved(stage) > before[stage] for stage in before))
    return reached and _sleep(rng.uniform(0, 0.005))


def between_stages(started: Started, rng: random.Random) -> bool:
    run = started.run
    reached = started.until(lambda: final_step(run.folder / "code") is not None)
    deadline = time.monotonic() + rng.uniform(0, 9)
    started.until(lambda: time.monotonic() > deadline or run.last_step("lcft"))
    return reached and not run.last_saved("lcft")


def during_start(started: Started, rng: random.Random) -> bool:
    return _sleep(rng.uniform(0, 7))


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return True


def _inode(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino
    return None


# In the order in which they occur in a run. The transition to the next stage occurs once, so kills at it are adjacent.
MOMENTS: list[tuple[str, Callable[[Started, random.Random], bool]]] = [
    ("during the start", during_start),
    ("during a step", during_step),
    ("during a save", during_save),
    ("after the rename of a save", after_rename),
    ("during a save", during_save),
    ("between two stages", between_stages),
    ("between two stages", between_stages),
    ("during a step", during_step),
    ("during a save", during_save),
    ("after the rename of a save", after_rename),
]


# ---------------------------------------------------------------- the kills


def kill_repeatedly(run: Run, moments: list[tuple[str, Callable]], rng: random.Random) -> Iterator[Kill]:
    """For each moment starts the run with the same command, kills it, and checks its checkpoints.

    Raises:
        AssertionError: the run ended before the kill, or a complete checkpoint is damaged.
    """
    for moment, wait in moments:
        with run.start() as started:
            reached = wait(started, rng)
            alive = not started.ended
            started.kill()
            check(reached and alive, f"{moment}: ended before the kill\n{started.output()}")
        stage = current_stage(run)
        check(not run.damaged(), f"{moment}: {run.damaged()}")
        lost = max(0, run.last_step(stage) - run.last_saved(stage))
        yield Kill(moment, stage, bool(run.partial_saves(stage)), lost)


def section(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The lines of this part of the result file."""
    reference = cascade(options.steps, folder / "reference")
    start = time.monotonic()
    reference.finish()
    seconds = time.monotonic() - start
    rng = random.Random(options.seed)
    kills: list[Kill] = []
    final = {stage: reference.final_arrays(stage) for stage in ("code", "lcft")}
    runs = 0
    while len(kills) < options.kills:
        run = cascade(options.steps, folder / f"killed{runs}")
        runs += 1
        number = min(KILLS_PER_RUN, options.kills - len(kills))
        # with fewer kills than moments, they are spread evenly
        moments = [MOMENTS[len(MOMENTS) * index // number] for index in range(number)]
        for kill in kill_repeatedly(run, moments, rng):
            kills.append(kill)
            print(f"    {kill}", file=sys.stderr, flush=True)
        run.finish()
        for stage in final:
            check(run.trajectory(stage) == reference.trajectory(stage), f"{stage}: different trajectory in {run}")
            check(same(run.final_arrays(stage), final[stage]), f"{stage}: different parameters in {run}")
        check(not run.damaged(), f"{run.damaged()}")
    steps = {stage: len(reference.trajectory(stage)) for stage in final}
    yield "## Kills"
    yield ""
    yield from paragraph(f"""
        SIGKILL to launcher and training process, {len(kills)} times in {runs} runs of code training ({steps["code"]}
        steps) and long-context fine-tuning ({steps["lcft"]} steps), saving every 8 steps, which takes {seconds:.0f} s
        without a kill. After each kill, every complete checkpoint was compared with its checksums, and the same command
        was started again.
    """)
    yield "| killed | times | in code, lcft | partial saves | repeated steps, median (max) |"
    yield "|---|---|---|---|---|"
    by_moment: dict[str, list[Kill]] = defaultdict(list)
    for kill in kills:
        by_moment[kill.moment].append(kill)
    for moment, group in by_moment.items():
        in_code = sum(kill.stage == "code" for kill in group)
        lost = [kill.lost for kill in group]
        partial = sum(kill.partial_save for kill in group)
        repeated = f"{statistics.median(lost):g} ({max(lost)})"
        yield f"| {moment} | {len(group)} | {in_code}, {len(group) - in_code} | {partial} | {repeated} |"
    yield ""
    yield from paragraph(f"""
        All {runs} runs finished. Every step was logged exactly once and in order, the results equal those of the run
        that was not killed, and all checkpoints were readable.
    """)
