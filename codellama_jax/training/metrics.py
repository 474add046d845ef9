"""Where a run's numbers go: metrics.jsonl, evaluations.jsonl, TensorBoard, and the line the user watches."""

import contextlib
import json
import math
import sys
import time
import types
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tqdm

from codellama_jax.config.training import Stage
from codellama_jax.runtime import cli, filesystem


class JsonLines:
    """A file of one JSON object a line, each written out as storage.GrowingFile does.

    Opening drops a truncated last line and every line of a step after `last_step`: those steps are run again.
    Floats are written with repr precision, so equal runs have equal text; those that are not finite are null. With
    writes=False the lines are only kept.
    """

    def __init__(self, path: Path, last_step: int, writes: bool = True):
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            for line in filesystem.read_text(path).splitlines():
                with contextlib.suppress(ValueError):  # a crash cut this line short; its step is run again
                    self.lines.append(json.loads(line))
        self._path, self._writes = path, writes
        self._file: filesystem.AppendFile | None = None
        self.dropped = self.forget_after(last_step)

    def forget_after(self, step: int, keep_kind: str = "") -> list[dict[str, Any]]:
        """Drops the lines of later steps, which are done again, but for those of one kind; returns them."""
        lines = [line for line in self.lines if isinstance(line, dict)]
        kept = [line.get("step", math.inf) <= step or keep_kind == line.get("kind", None) for line in lines]
        self.lines = [line for line, keeps in zip(lines, kept, strict=True) if keeps]
        if self._file:
            self._file.close()
        if self._writes:
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            self._file = filesystem.AppendFile(self._path, text)
        return [line for line, keeps in zip(lines, kept, strict=True) if not keeps]

    def write(self, record: dict[str, Any]) -> None:
        """Appends one object."""
        record = {name: _finite_or_none(value) for name, value in record.items()}
        self.lines.append(record)
        if self._file:
            self._file.write(json.dumps(record) + "\n")

    def sync(self) -> None:
        """Returns when every line is where it is to stay."""
        if self._file:
            self._file.sync()


class TensorBoard:
    """Scalars as TensorBoard events. Events after `last_step` of an earlier run are purged by TensorBoard itself."""

    def __init__(self, directory: Path, last_step: int):
        # imported here: the training core runs without tensorboard, and importing it takes a while
        if not filesystem.is_remote(directory):
            # TensorBoard writes with TensorFlow, which takes seconds to import, unless a module of this name exists.
            sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("tensorboard.compat.notf"))
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(directory))
        if last_step:
            started = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.add_event(self._event(wall_time=time.time(), step=last_step + 1, session_log=started))

    def write(self, step: int, record: dict[str, Any]) -> None:
        """One point for each number of the record."""
        values = [
            self._summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if isinstance(value, (int, float)) and math.isfinite(value) and name != "step"
        ]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        """Writes out what is held back."""
        self._writer.close()


class Progress:
    """A bar on a terminal, plain lines elsewhere; stage, step, loss, tokens/s, time left."""

    def __init__(self, stage: str, step: int, steps: int, shown: bool = True):
        self._stage, self._steps, self._shown = stage, steps, shown
        self._terminal = shown and sys.stderr.isatty()
        self._started, self._first = time.monotonic(), step
        self._printed = 0.0
        self._bar = tqdm.tqdm(
            total=steps, initial=step, desc=stage, unit="step", disable=not self._terminal, dynamic_ncols=True
        )

    def update(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Shows a step's numbers; off a terminal, at most one line in ten seconds."""
        if self._terminal:
            self._bar.set_postfix_str(f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if self._shown and (now - self._printed > 10 or step in (self._first + 1, self._steps)):
            self._printed = now
            left = (now - self._started) / max(step - self._first, 1) * (self._steps - step)
            say(
                f"{self._stage}: step {step}/{self._steps}  loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s  "
                f"{_clock(left)} left"
            )

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


class StageLog:
    """Everything that a stage writes down about itself while it runs: metrics.jsonl, evaluations.jsonl, TensorBoard
    events, the progress bar. Hosts that do not write keep the same records and leave no files.

    Args:
        stage_dir: the stage's folder.
        stage: its configuration.
        streams: names of the streams, in the order of their ids.
        resumed: step that is resumed from; None starts from nothing, and forgets what an earlier try wrote.
        writes: whether this host is the one that writes.

    Attributes:
        spent: seconds since the last step that were none of it, by cause (monitoring.goodput); logged with the next.
    """

    def __init__(self, stage_dir: Path, stage: Stage, streams: Sequence[str], resumed: int | None, writes: bool):
        last_step = -1 if resumed is None else resumed  # the validation before the first step has step 0
        self._stage, self._streams = stage, streams
        self.spent: dict[str, float] = defaultdict(float)
        self._metrics = JsonLines(stage_dir / "metrics.jsonl", last_step, writes)
        self._evaluations = JsonLines(stage_dir / "evaluations.jsonl", last_step, writes)
        self._count_lost(self._metrics.dropped)
        if ended := [line["time"] for line in self._metrics.lines + self._metrics.dropped if "time" in line]:
            self.spent["down"] += max(cli.PROCESS_STARTED - max(ended), 0.0)
        self._board = TensorBoard(stage_dir / "tensorboard", resumed or 0) if writes else None
        self._progress = Progress(stage.name, resumed or 0, stage.steps, writes)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return self._metrics.lines

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of evaluations.jsonl."""
        return self._evaluations.lines

    def step(self, step: int, metrics: Mapping[str, Any], seconds: float, of_data: Mapping[str, float]) -> None:
        """Notes an optimiser step.

        Args:
            step: its number, from 1.
            metrics: what the step returned, on the host.
            seconds: it took.
            of_data: what the stream says of the batch, by name.
        """
        record: dict[str, Any] = {
            "step": step,
            "loss": float(metrics["loss"]),
            "learning_rate": float(metrics["learning_rate"]),
            "grad_norm": float(metrics["grad_norm"]),
            "tokens_per_second": self._stage.batch_tokens / seconds,
            "seconds": seconds,
            "time": time.time(),
        }
        sums = (metrics[f"stream_{what}"] for what in ("losses", "weights", "tokens"))
        if metrics["skipped"]:
            record["skipped"] = True
        record |= {f"{cause}_seconds": spent for cause, spent in self.spent.items()}
        self.spent.clear()
        for name, loss, weight, tokens in zip(self._streams, *sums, strict=True):
            if tokens:
                record[f"loss/{name}"] = float(loss / max(weight, 1))
                record[f"tokens/{name}"] = int(tokens)
        record |= of_data
        self._metrics.write(record)
        if self._board:
            self._board.write(step, record)
        self._progress.update(step, record["loss"], record["tokens_per_second"])

    def evaluation(self, record: dict[str, Any]) -> None:
        """Notes a validation or a curve: an object with kind and step."""
        self._evaluations.write(record)
        if self._board:
            values = {name: value for name, value in record.items() if name.partition("/")[0] == "loss"}
            self._board.write(record["step"], {f"{record['kind']}/{name}": value for name, value in values.items()})

    def go_back(self, step: int, spike: int, loss: float) -> None:
        """Forgets what was noted after a step, which the stage has gone back to, but for the reason: the step and loss
        of a spike."""
        self._count_lost(self._metrics.forget_after(step))
        self._evaluations.forget_after(step, keep_kind="rollback")
        # of the next step: a run that is resumed from this one comes to the spike again
        self.evaluation({"kind": "rollback", "step": step + 1, "from": spike, "loss": loss})

    def _count_lost(self, lines: list[dict[str, Any]]) -> None:
        """Steps that are done again, with what came between them."""
        own = (
            value for line in lines for name, value in line.items() if name == "seconds" or name.endswith("_seconds")
        )
        if lost := sum(own):
            self.spent["lost"] += lost

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens of each stream in the steps noted."""
        sums = {name: sum(line.get(f"tokens/{name}", 0) for line in self.steps) for name in self._streams}
        return {name: tokens for name, tokens in sums.items() if tokens}

    @property
    def rollbacks(self) -> int:
        """How often the stage went back."""
        return sum(line["kind"] == "rollback" for line in self.evaluations)

    def sync(self) -> None:
        """Returns when every line is where it is to stay."""
        self._metrics.sync()
        self._evaluations.sync()

    def end_progress(self) -> None:
        """Ends the bar: no more steps will come."""
        self._progress.close()

    def close(self) -> None:
        """Returns when every line and event is on disk."""
        self.sync()
        if self._board:
            self._board.close()


def say(message: str) -> None:
    """A line for the user, above a progress bar if there is one."""
    with contextlib.suppress(OSError):  # a reader that went away must not end the run, nor keep it from saving
        tqdm.tqdm.write(message, file=sys.stdout)
        sys.stdout.flush()


def _finite_or_none(value: Any) -> Any:
    """JSON has no other numbers."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
