"""Perplexity against context length, before and after a stage."""

from collections.abc import Mapping
from typing import Any

from codellama_jax.config.training import Stage
from codellama_jax.training.data_interface import TrainingData
from codellama_jax.training.step import Params
from codellama_jax.training.validation import Evaluator


class ContextLengthEvaluation:
    """Measures the perplexity of long validation documents by context length.

    A stage with longer windows than its parent is compared with the parent: both curves use the same windows, at
    lengths relative to the parent's.

    Args:
        stage: settings of the stage.
        parent: metadata of the checkpoint that it started from; None if there was none.
        factor: ratio of the length of the windows to trained_length.
        data: data of the stage.

    Attributes:
        has_parent_curve: whether the stage is compared with its parent.
        trained_length: length of the training windows: the parent's if the stage is compared with it.
        windows: token ids, int32 [windows, trained_length * factor + 1]; may be empty.
    """

    def __init__(self, stage: Stage, parent: Mapping[str, Any] | None, factor: int, data: TrainingData):
        self.trained_length, self.has_parent_curve = stage.sequence_length, False
        if parent is not None and stage.parent is not None and stage.sequence_length > parent["sequence_length"]:
            self.trained_length, self.has_parent_curve = parent["sequence_length"], True
        self.windows = data.long_windows(self.trained_length * factor)
        self.has_parent_curve &= len(self.windows) > 0

    def record(self, when: str, step: int, stage: str, evaluator: Evaluator, params: Params) -> dict[str, Any]:
        """The line of evaluations.jsonl with the curve of these parameters.

        Args:
            when: "before" or "after" the stage.
            step: step of the stage.
            stage: name of the stage that trained the parameters.
            evaluator: evaluator of their model.
            params: the parameters.
        """
        curve = evaluator.context_curve(params, self.windows, self.trained_length)
        identity = {"kind": "context", "when": when, "step": step, "stage": stage}
        return identity | {"rope_theta": evaluator.llama.rope_theta, "trained_length": self.trained_length} | curve
