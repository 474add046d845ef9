"""Steps that would harm the model: skipped ones are noted, spikes of the loss end in a step back."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codellama_jax.config.training import LossSpikes
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.runtime.append_file import AppendFile


class LossSpike(Exception):
    """The loss stands out: go back to the last checkpoint, and on with the batches after this one.

    Attributes:
        step: at which it was seen.
        loss: of that step, in nats.
        median: of the steps before.
        batch: the step's.
    """

    def __init__(self, step: int, loss: float, median: float, batch: Any):
        super().__init__(f"loss {loss:.3f} at step {step}, {loss - median:.3f} above the median of the steps before")
        self.step, self.loss, self.median, self.batch = step, loss, median, batch


class LossSpikeMonitor:
    """Looks at every step that was done; what it says depends on the logged numbers alone, so that a run that is
    resumed decides as the one that was not.

    Args:
        settings: when to act.
        stage_dir: gets skipped_steps.jsonl (skipped_steps.N.jsonl of host N): step, loss, grad_norm, documents.
        host: this process's index.
        lines: of metrics.jsonl so far, growing.
        rollbacks: how often the stage went back so far.
        saved: step of the newest whole checkpoint, None if there is none.
        resumed: step that the stage goes on from; what was noted of later ones will be noted again.
    """

    def __init__(
        self,
        settings: LossSpikes,
        stage_dir: Path,
        host: int,
        lines: Callable[[], Sequence[Mapping[str, Any]]],
        rollbacks: Callable[[], int],
        saved: Callable[[], int | None],
        resumed: int = 0,
    ):
        self._settings, self._lines, self._rollbacks, self._saved = settings, lines, rollbacks, saved
        self.notes = stage_dir / (f"skipped_steps.{host}.jsonl" if host else "skipped_steps.jsonl")
        if self.notes.exists():
            noted = [line for line in filesystem.read_text(self.notes).splitlines() if _step(line) <= resumed]
            filesystem.write_atomically(self.notes, "".join(f"{line}\n" for line in noted))

    def look(self, step: int, batch: Any, metrics: Mapping[str, Any]) -> None:
        """Looks at a step whose line is the last one.

        Raises:
            UserError: too many updates were skipped one after the other, or the loss spiked once too often.
            LossSpike: the caller is to go back.
        """
        if metrics["skipped"]:
            self._skipped(step, batch, metrics)
        elif self._settings.spike:
            self._look_for_spike(step, batch, float(metrics["loss"]))

    def _skipped(self, step: int, batch: Any, metrics: Mapping[str, Any]) -> None:
        documents = [f"{stream}: {where}" for stream, where in batch.documents]
        values = {name: repr(float(metrics[name])) for name in ("loss", "grad_norm")}  # "nan" is no number of JSON
        notes = AppendFile(self.notes)  # not held open: there is seldom one
        notes.write(json.dumps({"step": step, **values, "documents": documents}) + "\n")
        notes.sync()
        notes.close()
        wanted = self._settings.in_a_row
        last = [bool(line.get("skipped")) for line in self._lines()[-wanted:]]
        if len(last) == wanted and all(last):
            whole = self._saved()
            raise UserError(
                f"loss or gradient was not finite in {wanted} steps one after the other, up to step {step}; their"
                f" documents are in {self.notes}, and {_from(whole)} is whole: look at the data, or lower"
                " AdamW.peak_learning_rate (another --name)"
            )

    def _look_for_spike(self, step: int, batch: Any, loss: float) -> None:
        window = self._settings.spike_window
        before = [line["loss"] for line in self._lines()[-window - 1 : -1] if line["loss"] is not None]
        if len(before) < window / 2 or loss <= (median := statistics.median(before)) + self._settings.spike:
            return
        if self._saved() is None:
            return  # there is nothing to go back to
        spike = LossSpike(step, loss, median, batch)
        if self._rollbacks() >= self._settings.rollbacks:
            raise UserError(
                f"{spike}, after the stage went back {self._settings.rollbacks} times (LossSpikes.rollbacks);"
                f" {_from(self._saved())} is whole: lower AdamW.peak_learning_rate (another --name), or raise"
                " LossSpikes.spike"
            )
        raise spike


def _step(line: str) -> float:
    """Of a line of skipped_steps.jsonl; one that a crash cut short is of none that was done."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _from(step: int | None) -> str:
    return "the start" if step is None else f"the checkpoint of step {step}"
