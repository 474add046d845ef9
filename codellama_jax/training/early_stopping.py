"""Ends a stage when its loss has stopped falling (Evaluation.patience), with the checkpoint of the lowest loss.

The state is a function of the evaluations that the stage has recorded. A run that resumes has the records up to its
checkpoint, and so it stops where an uninterrupted one does.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """The evaluations of a stage so far.

    Attributes:
        patience: number of evaluations in a row without a new lowest loss that ends the stage; 0: it does not end.
        best_step: step of the lowest loss; None: there was no evaluation. The one before the first step does not count.
        best_loss: the lowest loss.
        waited: number of evaluations since then.
    """

    patience: int
    best_step: int | None = None
    best_loss: float = math.inf
    waited: int = 0

    @classmethod
    def of(cls, patience: int, kind: str, evaluations: Iterable[Mapping[str, Any]]) -> "EarlyStopping":
        """That of the lines of evaluations.jsonl of one kind, which have a step and a loss."""
        result = cls(patience)
        for line in evaluations:
            if line["kind"] == kind and line["step"] > 0:
                result = result._after(line["step"], math.inf if line["loss"] is None else line["loss"])
        return result

    def _after(self, step: int, loss: float) -> "EarlyStopping":
        """The evaluations with one more. A loss that is not a number is not the lowest."""
        if loss < self.best_loss:
            return dataclasses.replace(self, best_step=step, best_loss=loss, waited=0)
        return dataclasses.replace(self, waited=self.waited + 1)

    @property
    def stops(self) -> bool:
        """Whether the stage ends after the last evaluation."""
        return 0 < self.patience <= self.waited
