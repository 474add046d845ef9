"""What a stage of training can be told, as plain values. gin binds these; nothing else decides a hyperparameter."""

import dataclasses
from typing import Any


def require_positive(settings: Any, *fields: str) -> None:
    """Raises ValueError that names the first of these fields that is not above 0."""
    for field in fields:
        if getattr(settings, field) <= 0:
            raise ValueError(f"{type(settings).__name__}.{field}={getattr(settings, field)} must be above 0")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the cascade.

    Attributes:
        name: the stage, and the name of its folder in the run: code, lcft, instruct, python_code, python, python_lcft.
        size: the size file in use, such as "local" or "7b".
        parent: the stage whose parameters this one starts from, None for the first of a lineage.
        steps: optimiser steps.
        batch_tokens: tokens of one optimiser step over all hosts; a multiple of sequence_length.
        sequence_length: tokens of one window.
        micro_batches: equal parts in which the batch passes through the model; the gradient is that of the whole.
        seed: of the parameters' initial values.
    """

    name: str
    size: str
    parent: str | None
    steps: int
    batch_tokens: int
    sequence_length: int
    micro_batches: int = 1
    seed: int = 0

    def __post_init__(self):
        require_positive(self, "steps", "batch_tokens", "sequence_length", "micro_batches")
        if not self.name.isidentifier():
            raise ValueError(f"Stage.name={self.name!r} must be letters, digits and underscores: it names a folder")
        if self.batch_tokens % (self.sequence_length * self.micro_batches):
            raise ValueError(
                f"Stage.batch_tokens={self.batch_tokens} must be a multiple of Stage.sequence_length="
                f"{self.sequence_length} times Stage.micro_batches={self.micro_batches}"
            )

    @property
    def batch_size(self) -> int:
        """Windows in a global batch."""
        return self.batch_tokens // self.sequence_length


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW with linear warm-up and a cosine to final_ratio of the peak (arXiv 2308.12950, section 2.6).

    Attributes:
        peak_learning_rate: reached at the end of the warm-up.
        warmup_steps: linear from 0.
        final_ratio: learning rate of the last step over the peak.
        beta1, beta2: decay of the moments.
        eps, weight_decay, clip_norm: not published for Code Llama; Llama 2's values (assumption).
        first_moment_dtype, second_moment_dtype: how the moments are stored, "float32" or "bfloat16", which is half the
            memory; they are computed in float32 either way.
    """

    peak_learning_rate: float
    warmup_steps: int = 1000
    final_ratio: float = 1 / 30
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-5
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    first_moment_dtype: str = "float32"
    second_moment_dtype: str = "float32"

    def __post_init__(self):
        for field in ("first_moment_dtype", "second_moment_dtype"):
            if getattr(self, field) not in ("float32", "bfloat16"):
                raise ValueError(f"AdamW.{field}={getattr(self, field)!r} must be 'float32' or 'bfloat16'")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each mesh axis. Left alone it is chosen (sharding.axis_sizes) for any slice, batch and length.

    Attributes:
        data: copies of the parameters, each with its share of the batch; 0: one a slice of TPUs, or what a bound fsdp
            leaves.
        fsdp: shares of the parameters, each with its share of the batch; -1: all devices that remain.
        context: shares of the sequence; 0: one, and more only where there are more devices than windows.
        tensor: shares of heads, feed-forward width and vocabulary.
    """

    data: int = 0
    fsdp: int = -1
    context: int = 0
    tensor: int = 1

    def __post_init__(self):
        for axis, least in (("data", 0), ("fsdp", -1), ("context", 0), ("tensor", 1)):
            if getattr(self, axis) < least or (axis == "fsdp" and self.fsdp == 0):
                raise ValueError(f"Mesh.{axis}={getattr(self, axis)} must be at least 1, or left alone")


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Attributes:
    every: steps between saves; the last step is always saved.
    keep: saves kept, newest first.
    keep_every: those of steps that are multiples of this are kept as well; 0: none.
    keep_best: keep the one with the lowest validation loss as well, of those saved at a step that was validated.
    grace_seconds: from a signal to the end of the process: what is not saved by then is left unsaved.
    initial: for a stage without parent, the checkpoint folder whose parameters it starts from (Llama 2, at the real
        sizes), "scratch" for random parameters.
    """

    every: int = 1000
    keep: int = 3
    keep_every: int = 0
    keep_best: bool = True
    grace_seconds: float = 30.0
    initial: str = "scratch"

    def __post_init__(self):
        require_positive(self, "every", "keep", "grace_seconds")
        if self.keep_every % self.every:
            raise ValueError(
                f"Checkpoints.keep_every={self.keep_every} must be a multiple of Checkpoints.every={self.every}, or 0"
            )


@dataclasses.dataclass(frozen=True)
class LossSpikes:
    """What is done about steps that would harm the model.

    A step whose loss or gradient is not finite changes nothing: its update is skipped. A step whose loss stands out is
    a spike: parameters, optimiser and step number go back to the last checkpoint, and the batches since are passed over
    (as reported of PaLM, arXiv 2204.02311, section 5.1).

    Attributes:
        in_a_row: updates skipped one after the other that end the run.
        spike: nats above the median of the steps before from which a loss is a spike; 0: none is.
        spike_window: steps that the median is of; fewer than half as many are not enough for one.
        rollbacks: times that a stage goes back; the next spike ends the run.
    """

    in_a_row: int = 5
    spike: float = 0.0
    spike_window: int = 64
    rollbacks: int = 3

    def __post_init__(self):
        require_positive(self, "in_a_row", "spike_window")
        if self.spike < 0 or self.rollbacks < 0:
            raise ValueError(
                f"LossSpikes.spike={self.spike} and LossSpikes.rollbacks={self.rollbacks} must not be negative"
            )


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """Attributes:
    stall_minutes: without a step, a validation or a save for so long, the process writes the stacks of its threads and
        exits with 75, to be started again; 0: never. The first step's compilation counts.
    profile_first, profile_last: steps to trace for TensorBoard; 0: none. Touching the file `profile` in the stage's
        folder traces the next three.
    """

    stall_minutes: float = 30.0
    profile_first: int = 0
    profile_last: int = 0

    def __post_init__(self):
        if self.stall_minutes < 0:
            raise ValueError(f"Monitoring.stall_minutes={self.stall_minutes} must not be negative")
        if not 0 <= self.profile_first <= self.profile_last:
            raise ValueError(
                f"Monitoring.profile_first={self.profile_first} must not be after Monitoring.profile_last"
                f"={self.profile_last}"
            )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Attributes:
    every: steps between validations; before the first step and after the last there is always one.
    batches: validation batches each time, the same ones each time.
    context_windows: windows of the perplexity-against-length curve.
    context_factor: length of those windows over the parent's sequence length (over the stage's own without parent).
    samples: infilling samples generated at the end for the report.
    sample_tokens: tokens of a sample at most.
    """

    every: int = 1000
    batches: int = 8
    context_windows: int = 32
    context_factor: int = 4
    samples: int = 3
    sample_tokens: int = 48

    def __post_init__(self):
        require_positive(self, "every", "batches", "context_factor", "sample_tokens")
