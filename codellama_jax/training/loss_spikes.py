"""Handles steps that would harm the model: skipped updates are recorded, loss spikes are reported to the trainer."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from codellama_jax.config.training import LossSpikes
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.append_file import AppendFile
from codellama_jax.training.data_interface import HostBatch


class LossSpike(Exception):
    """The loss of a step is a spike: roll back to the last checkpoint and continue with the batch after this step's.

    Attributes:
        step: number of the step.
        loss: its loss, in nats.
        median: median loss of the preceding steps.
        batch: its batch.
    """

    def __init__(self, step: int, loss: float, median: float, batch: HostBatch):
        super().__init__(f"loss {loss:.3f} at step {step}, {loss - median:.3f} above the median of the preceding steps")
        self.step, self.loss, self.median, self.batch = step, loss, median, batch


class Records(Protocol):
    """The records of the stage so far (metrics.StageLog)."""

    @property
    def steps(self) -> Sequence[Mapping[str, Any]]:
        """The lines of metrics.jsonl."""

    @property
    def rollbacks(self) -> int:
        """The number of rollbacks of the stage."""


class Checkpoints(Protocol):
    """The checkpoints of the stage so far (checkpoints.StageCheckpoints)."""

    def last_saved(self) -> int | None:
        """The step of the newest checkpoint; None if there is none. Waits for a save in progress."""


class LossSpikeMonitor:
    """Checks every step. Its decisions depend on recorded numbers alone, so a resumed run makes the same ones.

    Args:
        settings: thresholds and limits.
        stage_dir: folder for skipped_steps.jsonl (skipped_steps.N.jsonl for host N): step, loss, grad_norm, documents.
        host: index of this process.
        records: records of the stage.
        checkpoints: checkpoints of the stage.
        resumed_step: the step that the stage resumes from; later steps run again, so their lines are dropped.
    """

    def __init__(
        self,
        settings: LossSpikes,
        stage_dir: Path,
        host: int,
        records: Records,
        checkpoints: Checkpoints,
        resumed_step: int = 0,
    ):
        self._settings, self._records, self._checkpoints = settings, records, checkpoints
        self.path = stage_dir / (f"skipped_steps.{host}.jsonl" if host else "skipped_steps.jsonl")
        if self.path.exists():
            kept = [line for line in filesystem.read_text(self.path).splitlines() if _step(line) <= resumed_step]
            filesystem.write_atomically(self.path, "".join(f"{line}\n" for line in kept))

    def check(self, step: int, batch: HostBatch, metrics: Mapping[str, Any]) -> None:
        """Checks the step that was recorded last.

        Raises:
            UserError: too many consecutive updates were skipped, or there were too many spikes.
            LossSpike: the caller must roll back.
        """
        if metrics["skipped"]:
            self._record_skipped(step, batch, metrics)
            self._check_consecutive_skips(step)
        elif self._settings.threshold:
            self._check_spike(step, batch, float(metrics["loss"]))

    def _record_skipped(self, step: int, batch: HostBatch, metrics: Mapping[str, Any]) -> None:
        documents = [f"{stream}: {path}" for stream, path in batch.documents]
        values = {name: repr(float(metrics[name])) for name in ("loss", "grad_norm")}  # JSON has no nan: as text
        file = AppendFile(self.path)  # opened only when needed, which is rare
        file.write(json.dumps({"step": step, **values, "documents": documents}) + "\n")
        file.sync()
        file.close()

    def _check_consecutive_skips(self, step: int) -> None:
        limit = self._settings.max_consecutive_skips
        skipped = [bool(line.get("skipped")) for line in self._records.steps[-limit:]]
        if len(skipped) == limit and all(skipped):
            raise UserError(
                f"loss or gradient was not finite in {limit} consecutive steps, up to step {step}; their documents are"
                f" in {self.path}, and {_intact(self._checkpoints.last_saved())}: check the data, or lower"
                " AdamW.peak_learning_rate and use another --name"
            )

    def _check_spike(self, step: int, batch: HostBatch, loss: float) -> None:
        window = self._settings.window
        before = [line["loss"] for line in self._records.steps[-window - 1 : -1] if line["loss"] is not None]
        if len(before) < window / 2 or loss <= (median := statistics.median(before)) + self._settings.threshold:
            return
        saved = self._checkpoints.last_saved()
        if saved is None:
            return  # there is no checkpoint to roll back to
        spike = LossSpike(step, loss, median, batch)
        if self._records.rollbacks >= self._settings.max_rollbacks:
            raise UserError(
                f"{spike}, after {self._settings.max_rollbacks} rollbacks (LossSpikes.max_rollbacks);"
                f" {_intact(saved)}: lower AdamW.peak_learning_rate and use another --name, or raise"
                " LossSpikes.threshold"
            )
        raise spike


def _step(line: str) -> float:
    """The step of a line of skipped_steps.jsonl; infinity if a crash truncated the line, so that it is dropped."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _intact(step: int | None) -> str:
    return "there is no checkpoint yet" if step is None else f"the checkpoint of step {step} is complete"
