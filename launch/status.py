"""What became of runs, read from what they leave behind: python xm_launch.py status.

Also `logs NAME` and `stop NAME`, which the executor knows how to do.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

from codellama_jax.config import gin_files
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE, UserError
from codellama_jax.runtime.lock import holder
from codellama_jax.runtime.run_dir import final_step, saved_steps
from launch import cloud
from launch.executor import Executor
from launch.remote_run_dir import RunDir

COMMANDS = ("status", "logs", "stop")
LAST_BYTES = 100_000  # of metrics.jsonl: some hundred steps
FRESH_SECONDS = 600.0  # a run in a bucket that logged a step since then is taken to run
MEDIAN_OF = 50  # steps


@dataclasses.dataclass(frozen=True)
class StageStatus:
    """One stage of a run; None is what is not known.

    Attributes:
        state: finished, running, or stopped.
        age: seconds since its last checkpoint, or since its last step where that is not known.
        left: seconds.
    """

    run: str
    stage: str
    state: str
    step: int
    steps: int
    loss: float | None
    tokens_per_second: float | None
    age: float | None
    left: float | None


def add_command(parser: argparse.ArgumentParser) -> None:
    """Makes the parser one of COMMANDS."""
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("name", nargs="?", help="the run: needed for logs and stop")
    parser.add_argument("--json", action="store_true", help="status as one JSON object a stage")


def command(flags: gin_files.Flags, options: argparse.Namespace, where: Executor) -> int:
    """Does what the command says; returns an exit code."""
    run_dir = RunDir(options.run_dir)
    if options.command != "status":
        if not options.name:
            raise UserError(f"which run? python xm_launch.py {options.command} NAME", EXIT_USAGE)
        return (where.logs if options.command == "logs" else where.stop)(run_dir.path, options.name)
    found = [
        status
        for name in ([options.name] if options.name else run_dir.names())
        for stage in run_dir.stages(name)
        if (status := stage_status(run_dir, name, stage))
    ]
    if options.json:
        for status in found:
            print(json.dumps(dataclasses.asdict(status)))
    else:
        print(table(found) if found else f"no runs in {options.run_dir}")
    return EXIT_DONE


def stage_status(run_dir: RunDir, name: str, stage: str) -> StageStatus | None:
    """What a stage's folder says of it; None if it is not one."""
    folder = run_dir.stage(name, stage)
    if not (folder / "config.gin").exists() or not (folder / "stage.json").exists():
        return None
    described = json.loads((folder / "stage.json").read_text())
    steps, lines = described["steps"], last_lines(run_dir, name, stage)
    last = lines[-1] if lines else {"step": 0}
    rates = sorted(line["tokens_per_second"] for line in lines[-MEDIAN_OF:])
    rate = rates[len(rates) // 2] if rates else None
    state, age = "stopped", None
    if run_dir.bucket:
        logged = cloud.updated(f"{run_dir.path}/{name}/{stage}/metrics.jsonl")
        age = time.time() - logged if logged else None
        state = "running" if age is not None and age < FRESH_SECONDS else state
    else:
        if saved := saved_steps(folder):
            age = time.time() - (folder / "checkpoints" / str(saved[-1])).stat().st_mtime
        state = "running" if holder(folder) else state
    if final_step(folder) is not None:
        state = "finished"
    left = (steps - last["step"]) * described["batch_tokens"] / rate if rate and state == "running" else None
    return StageStatus(name, stage, state, last["step"], steps, last.get("loss"), rate, age, left)


def last_lines(run_dir: RunDir, name: str, stage: str) -> list[dict]:
    """The last of what metrics.jsonl says, oldest first."""
    if run_dir.bucket:
        try:
            text = cloud.read(f"{run_dir.path}/{name}/{stage}/metrics.jsonl", LAST_BYTES)
        except UserError:
            return []
    else:
        path = Path(run_dir.path, name, stage, "metrics.jsonl")
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - LAST_BYTES, 0))
            text = file.read()
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # cut at either end
    return [line for line in found if isinstance(line, dict) and "step" in line]


def table(found: list[StageStatus]) -> str:
    """For people."""
    rows = [("run", "stage", "state", "step", "loss", "tokens/s", "saved", "left")]
    for one in found:
        rows.append(
            (
                *(one.run, one.stage, one.state, f"{one.step:,}/{one.steps:,}"),
                "" if one.loss is None else f"{one.loss:.3f}",
                "" if one.tokens_per_second is None else f"{one.tokens_per_second:,.0f}",
                "" if one.age is None else f"{_span(one.age)} ago",
                "" if one.left is None else _span(one.left),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
