"""Everything that a stage records while it trains: metrics.jsonl, evaluations.jsonl, TensorBoard and progress."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codellama_jax.config.training import Stage
from codellama_jax.runtime import cli
from codellama_jax.training.metrics.json_lines import JsonLines
from codellama_jax.training.metrics.progress import Progress
from codellama_jax.training.metrics.tensorboard import TensorBoard

CURVES = ("loss", "bits_per_byte")  # the first parts of the names of an evaluation's curves


class StageLog:
    """The records of a stage. Hosts that do not write keep the same records in memory.

    Args:
        stage_dir: the stage's folder.
        stage: its configuration.
        streams: names of the streams, in the order of their ids.
        resumed_step: the step that the run resumes from; None: the stage is at its first step, and the records of an
            earlier attempt are dropped.
        writes: whether this host writes files and shows the progress.

    Attributes:
        overhead: seconds since the last step that were not spent in steps, by cause (report.goodput). They are
            recorded with the next step.
    """

    def __init__(self, stage_dir: Path, stage: Stage, streams: Sequence[str], resumed_step: int | None, writes: bool):
        last_step = -1 if resumed_step is None else resumed_step  # the validation before the first step has step 0
        self._stage, self._streams = stage, streams
        self.overhead: dict[str, float] = defaultdict(float)
        self._metrics = JsonLines(stage_dir / "metrics.jsonl", last_step, writes)
        self._evaluations = JsonLines(stage_dir / "evaluations.jsonl", last_step, writes)
        self._count_lost(self._metrics.dropped)
        if times := [line["time"] for line in self._metrics.lines + self._metrics.dropped if "time" in line]:
            self.overhead["down"] += max(cli.PROCESS_STARTED - max(times), 0.0)
        self._tensorboard = TensorBoard(stage_dir / "tensorboard", resumed_step or 0) if writes else None
        self._progress = Progress(stage.name, resumed_step or 0, stage.steps, writes)

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        return self._metrics.lines

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The lines of evaluations.jsonl."""
        return self._evaluations.lines

    @property
    def tokens(self) -> dict[str, int]:
        """The number of tokens of each stream in the recorded steps."""
        sums = {name: sum(line.get(f"tokens/{name}", 0) for line in self.steps) for name in self._streams}
        return {name: tokens for name, tokens in sums.items() if tokens}

    @property
    def rollbacks(self) -> int:
        """The number of rollbacks of the stage."""
        return sum(line["kind"] == "rollback" for line in self.evaluations)

    @contextlib.contextmanager
    def overhead_of(self, cause: str) -> Iterator[None]:
        """Adds the duration of the block to `overhead`."""
        started = time.monotonic()
        yield
        self.overhead[cause] += time.monotonic() - started

    def record_step(
        self, step: int, metrics: Mapping[str, Any], seconds: float, data_metrics: Mapping[str, float]
    ) -> None:
        """Records an optimizer step.

        Args:
            step: its number, from 1.
            metrics: the metrics that the step returned, on the host.
            seconds: its duration.
            data_metrics: the data loader's metrics of its batch, by name.
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
        if metrics["skipped"]:
            record["skipped"] = True
        record |= {f"{cause}_seconds": spent for cause, spent in self.overhead.items()}
        self.overhead.clear()
        sums = (metrics[f"stream_{quantity}"] for quantity in ("losses", "weights", "tokens"))
        for name, loss, weight, tokens in zip(self._streams, *sums, strict=True):
            if tokens:
                record[f"loss/{name}"] = float(loss / max(weight, 1))
                record[f"tokens/{name}"] = int(tokens)
        record |= data_metrics
        self._metrics.write(record)
        if self._tensorboard:
            self._tensorboard.write(step, record)
        self._progress.update(step, record["loss"], record["tokens_per_second"])

    def record_evaluation(self, record: dict[str, Any]) -> None:
        """Records a validation, the measures of benchmarks or a perplexity curve: an object with kind and step.

        TensorBoard gets the losses and the bits per byte, as KIND/NAME.
        """
        self._evaluations.write(record)
        if self._tensorboard:
            curves = {name: value for name, value in record.items() if name.partition("/")[0] in CURVES}
            self._tensorboard.write(
                record["step"], {f"{record['kind']}/{name}": value for name, value in curves.items()}
            )

    def roll_back(self, step: int, spike_step: int, loss: float) -> None:
        """Drops the records after `step`, to which the stage was rolled back, and records the rollback.

        Args:
            step: step of the checkpoint.
            spike_step, loss: step and loss of the spike.
        """
        self._count_lost(self._metrics.drop_after(step))
        self._evaluations.drop_after(step, keep_kind="rollback")
        # with the number of the next step: a run that resumes from `step` reaches the spike again, and drops this line
        self.record_evaluation({"kind": "rollback", "step": step + 1, "from": spike_step, "loss": loss})

    def _count_lost(self, lines: list[dict[str, Any]]) -> None:
        """Adds the seconds of steps that will run again, including the overhead between them."""
        seconds = (
            value for line in lines for name, value in line.items() if name == "seconds" or name.endswith("_seconds")
        )
        if lost := sum(seconds):
            self.overhead["lost"] += lost

    def sync(self) -> None:
        """Blocks until every line is stored durably."""
        self._metrics.sync()
        self._evaluations.sync()

    def end_progress(self) -> None:
        """Ends the progress bar: no more steps follow."""
        self._progress.close()

    def close(self) -> None:
        """Blocks until every line and event is stored, and closes the event file."""
        self.sync()
        if self._tensorboard:
            self._tensorboard.close()
