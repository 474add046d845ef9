"""The commands status, logs and stop of xm_launch.py.

`status` reads the state of runs from their folders; `logs NAME` and `stop NAME` are passed to the executor.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codellama_jax.config import gin_files
from codellama_jax.errors import EXIT_DONE, EXIT_USAGE, UserError
from codellama_jax.runtime.lock import holder
from codellama_jax.runtime.run_dir import final_step, saved_steps
from launch import cloud
from launch.executor import Executor
from launch.remote_run_dir import RunDir

COMMANDS = ("status", "logs", "stop")
TAIL_BYTES = 100_000  # read from the end of metrics.jsonl: a few hundred steps
ACTIVE_SECONDS = 600.0  # a run in a bucket counts as running if it logged a step in the last ten minutes
RATE_STEPS = 50  # tokens_per_second is the median over the last steps, up to this many


@dataclasses.dataclass(frozen=True)
class StageStatus:
    """The status of one stage of a run; None means unknown.

    Attributes:
        state: "finished", "running" or "stopped".
        age: seconds since the last checkpoint; in a bucket, since the last logged step.
        left: estimated seconds until the stage is finished.
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
    """Adds the arguments of COMMANDS to the parser."""
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("name", nargs="?", help="the run: required for logs and stop")
    parser.add_argument("--json", action="store_true", help="print the status as one JSON object for each stage")


def run_command(flags: gin_files.Flags, options: argparse.Namespace, executor: Executor) -> int:
    """Runs status, logs or stop; returns an exit code."""
    run_dir = RunDir(options.run_dir)
    if options.command != "status":
        if not options.name:
            raise UserError(f"which run? python xm_launch.py {options.command} NAME", EXIT_USAGE)
        return (executor.logs if options.command == "logs" else executor.stop)(run_dir.path, options.name)
    if options.name and not run_dir.stages(options.name):
        raise UserError(f"there is no run {options.name} in {options.run_dir}: status without a name lists them all")
    statuses = [
        status
        for name in ([options.name] if options.name else run_dir.names())
        for stage in run_dir.stages(name)
        if (status := stage_status(run_dir, name, stage))
    ]
    if options.json:
        for status in statuses:
            print(json.dumps(dataclasses.asdict(status)))
    else:
        print(table(statuses) if statuses else f"no runs in {options.run_dir}")
    return EXIT_DONE


def stage_status(run_dir: RunDir, name: str, stage: str) -> StageStatus | None:
    """The status of a stage; None if the folder is not that of a stage."""
    folder = run_dir.stage(name, stage)
    if not (folder / "config.gin").exists() or not (folder / "stage.json").exists():
        return None
    description = json.loads((folder / "stage.json").read_text())
    steps, metrics = description["steps"], last_metrics(run_dir, name, stage)
    last = metrics[-1] if metrics else {"step": 0}
    rates = sorted(step["tokens_per_second"] for step in metrics[-RATE_STEPS:])
    rate = rates[len(rates) // 2] if rates else None
    state, age = "stopped", None
    if run_dir.is_bucket:
        logged = cloud.modified_at(f"{run_dir.path}/{name}/{stage}/metrics.jsonl")
        age = time.time() - logged if logged else None
        state = "running" if age is not None and age < ACTIVE_SECONDS else state
    else:
        if saved := saved_steps(folder):
            age = time.time() - (folder / "checkpoints" / str(saved[-1])).stat().st_mtime
        state = "running" if holder(folder) else state
    if final_step(folder) is not None:
        state = "finished"
    left = (steps - last["step"]) * description["batch_tokens"] / rate if rate and state == "running" else None
    return StageStatus(name, stage, state, last["step"], steps, last.get("loss"), rate, age, left)


def last_metrics(run_dir: RunDir, name: str, stage: str) -> list[dict[str, Any]]:
    """The last records of metrics.jsonl, oldest first."""
    if run_dir.is_bucket:
        try:
            data = cloud.read_file(f"{run_dir.path}/{name}/{stage}/metrics.jsonl", TAIL_BYTES)
        except UserError:
            return []
    else:
        path = Path(run_dir.path, name, stage, "metrics.jsonl")
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - TAIL_BYTES, 0))
            data = file.read()
    records = []
    for line in data.splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue  # the first or the last line may be incomplete
    return [record for record in records if isinstance(record, dict) and "step" in record]


def table(statuses: Sequence[StageStatus]) -> str:
    """The statuses as a table for the terminal."""
    rows = [("run", "stage", "state", "step", "loss", "tokens/s", "saved", "left")]
    for status in statuses:
        rows.append(
            (
                *(status.run, status.stage, status.state, f"{status.step:,}/{status.steps:,}"),
                "" if status.loss is None else f"{status.loss:.3f}",
                "" if status.tokens_per_second is None else f"{status.tokens_per_second:,.0f}",
                "" if status.age is None else f"{_duration(status.age)} ago",
                "" if status.left is None else _duration(status.left),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
