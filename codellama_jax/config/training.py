"""Settings of training, as plain dataclasses that gin binds. Hyperparameters are set nowhere else."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from codellama_jax.config import locations
from codellama_jax.config.exercise_benchmarks import EXERCISES


def require_positive(settings: Any, *fields: str) -> None:
    """Raises ValueError, with the name of the field, if one of these fields is not above 0."""
    for field in fields:
        if not getattr(settings, field) > 0:  # also true for NaN
            raise ValueError(f"{type(settings).__name__}.{field}={getattr(settings, field)} must be above 0")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the cascade.

    Attributes:
        name: name of the stage, and of its folder in the run: code, lcft, instruct, python_code, python, python_lcft.
        size: name of the size file, such as "local" or "7b".
        parent: the stage whose parameters this one starts from; None for the first stage of a cascade.
        steps: number of optimizer steps; 0: as many as `epochs` takes.
        batch_tokens: tokens in the batch of one optimizer step, over all hosts; a multiple of sequence_length.
        sequence_length: tokens in one window.
        micro_batches: equal parts of the batch that pass through the model one after another. Their gradients are
            accumulated exactly, so the result does not depend on this number.
        seed: seed of the initial random parameters.
        epochs: passes over the documents of the stream with the largest share, from whose tokens the number of steps
            is derived when the data is opened (config/derived.py); 0: `steps` gives it.
        least_steps: the smallest number of steps that is derived: a few files are read more often than `epochs`.
    """

    name: str
    size: str
    parent: str | None
    steps: int
    batch_tokens: int
    sequence_length: int
    micro_batches: int = 1
    seed: int = 0
    epochs: float = 0.0
    least_steps: int = 1

    def __post_init__(self):
        require_positive(self, "batch_tokens", "sequence_length", "micro_batches", "least_steps")
        if not 0 <= self.epochs < math.inf:
            raise ValueError(f"Stage.epochs={self.epochs} must not be negative")
        if self.epochs and self.steps:
            raise ValueError(
                f"Stage.steps={self.steps} and Stage.epochs={self.epochs:g} contradict each other: bind one of them to"
                " 0"
            )
        if not self.epochs:
            require_positive(self, "steps")
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


# Values of a moment in 8 bits that share a float32 scale, at most: a matrix of 4,096 columns has a block on each of 64
# devices.
MOMENT_BLOCK = 64
MOMENT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1 + 4 / MOMENT_BLOCK}  # of a moment, by its dtype


@dataclasses.dataclass(frozen=True)
class AdamW:
    """AdamW with linear warm-up and a cosine to final_ratio of the peak (arXiv 2308.12950, section 2.6).

    Attributes:
        peak_learning_rate: learning rate at the end of the warm-up.
        warmup_steps: steps of the linear warm-up from 0.
        final_ratio: ratio of the learning rate of the last step to the peak.
        beta1, beta2: decay rates of the moments.
        eps, weight_decay, clip_norm: not published for Code Llama; Llama 2's values (assumption).
        first_moment_dtype, second_moment_dtype: storage of the moments: "float32", "bfloat16" with half of its memory,
            or "int8" with a quarter (codes in blocks, training/moments.py). They are computed in float32 in all cases.
        matrices: what updates the matrices of the blocks: "adam", or "muon", which orthogonalises their momentum
            (arXiv 2502.16982) and needs no second moment for them. Embedding, head and norms are updated by Adam.
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
    matrices: str = "adam"

    def __post_init__(self):
        self._check_ranges()
        for field in ("first_moment_dtype", "second_moment_dtype"):
            if getattr(self, field) not in MOMENT_BYTES:
                raise ValueError(f"AdamW.{field}={getattr(self, field)!r} must be 'float32', 'bfloat16' or 'int8'")
        if self.matrices not in ("adam", "muon"):
            raise ValueError(f"AdamW.matrices={self.matrices!r} must be 'adam' or 'muon'")
        if self.matrices == "muon" and self.first_moment_dtype == "int8":
            raise ValueError("AdamW.first_moment_dtype='int8' needs AdamW.matrices='adam': Muon's momentum has 16 bits")

    def _check_ranges(self) -> None:
        """Refuses values that cannot be meant. `not a < b` is also true for NaN."""
        for field in ("peak_learning_rate", "eps", "clip_norm"):
            if not 0 < getattr(self, field) < math.inf:
                raise ValueError(f"AdamW.{field}={getattr(self, field)} must be above 0")
        if self.peak_learning_rate > 1:
            raise ValueError(f"AdamW.peak_learning_rate={self.peak_learning_rate} must be at most 1, such as 3e-4")
        if self.warmup_steps < 0:
            raise ValueError(f"AdamW.warmup_steps={self.warmup_steps} must not be negative")
        if not 0 <= self.final_ratio <= 1:
            raise ValueError(f"AdamW.final_ratio={self.final_ratio} must be between 0 and 1")
        for field in ("beta1", "beta2"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"AdamW.{field}={getattr(self, field)} must be at least 0 and below 1")
        if not 0 <= self.weight_decay < 1:
            raise ValueError(f"AdamW.weight_decay={self.weight_decay} must be at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each mesh axis. The defaults are resolved (sharding.axis_sizes) for any slice, batch and length.

    Attributes:
        data: replicas of the parameters, each with its part of the batch; 0: one per slice of TPUs, or the remaining
            devices if fsdp is bound.
        fsdp: shards of the parameters, each with its part of the batch; -1: all remaining devices.
        context: shards of the sequence; 0: one, or more if there are more devices than windows.
        tensor: shards of heads, feed-forward width and vocabulary.
    """

    data: int = 0
    fsdp: int = -1
    context: int = 0
    tensor: int = 1

    def __post_init__(self):
        for axis, least in (("data", 0), ("fsdp", -1), ("context", 0), ("tensor", 1)):
            if getattr(self, axis) < least or (axis == "fsdp" and self.fsdp == 0):
                raise ValueError(f"Mesh.{axis}={getattr(self, axis)} must be at least 1, or not bound")


# The values of Checkpoints.allowed_changes: a smaller RoPE base, another scale of the positions, another type of RoPE
# (or other values of it), another epsilon of RMSNorm, another tokenizer.
CHANGES = ("rope_theta", "rope_scale", "rope_type", "norm_eps", "tokenizer")


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """Attributes:
    every: steps between saves; the last step is always saved. 0: those between evaluations.
    keep: number of newest checkpoints to keep.
    keep_every: checkpoints of steps that are multiples of this are kept too; 0: none.
    keep_best: also keep the checkpoint with the lowest validation loss, among those saved at a validated step.
    grace_seconds: seconds after a stop signal at which the process exits, even if the save has not finished.
    initial: for a stage without parent, the checkpoint folder whose parameters it starts from (Llama 2, at the real
        sizes), or a stage's folder, whose newest one it is, or "scratch" for random parameters.
    allowed_changes: differences from the parent, or from `initial`, that a stage may have although its parameters were
        trained otherwise: one or more of CHANGES. A larger RoPE base needs no permission, except in a stage that is
        compared with what it starts from (Evaluation.infilling_cases).
    """

    every: int = 1000
    keep: int = 3
    keep_every: int = 0
    keep_best: bool = True
    grace_seconds: float = 30.0
    initial: str = "scratch"
    allowed_changes: str | Sequence[str] = ()

    def __post_init__(self):
        require_positive(self, "keep", "grace_seconds")
        if self.every < 0:
            raise ValueError(f"Checkpoints.every={self.every} must be at least 1, or 0 for Evaluation.every")
        if unknown := sorted(self.allowed - set(CHANGES)):
            raise ValueError(
                f"Checkpoints.allowed_changes names {unknown[0]!r}: the changes that can be allowed are"
                f" {', '.join(CHANGES)}"
            )
        if problem := locations.problem(self.initial):
            raise ValueError(f"Checkpoints.initial={problem}")
        if self.keep_every % max(self.every, 1):
            raise ValueError(
                f"Checkpoints.keep_every={self.keep_every} must be a multiple of Checkpoints.every={self.every}, or 0"
            )

    @property
    def allowed(self) -> frozenset[str]:
        """The names in allowed_changes."""
        names = self.allowed_changes
        return frozenset([names] if isinstance(names, str) else names)


@dataclasses.dataclass(frozen=True)
class LossSpikes:
    """Protection against steps that would harm the model.

    If the loss or the gradient of a step is not finite, its update is skipped. If the loss of a step is a spike,
    parameters, optimizer and step number are rolled back to the last checkpoint, and the batches since then are skipped
    (as for PaLM, arXiv 2204.02311, section 5.1).

    Attributes:
        max_consecutive_skips: number of consecutive skipped updates that ends the run.
        threshold: a loss more than this many nats above the median of the preceding steps is a spike; 0: none is.
        window: number of preceding steps for the median; with fewer than half as many, no loss is a spike.
        max_rollbacks: maximum number of rollbacks of a stage; the next spike ends the run.
    """

    max_consecutive_skips: int = 5
    threshold: float = 0.0
    window: int = 64
    max_rollbacks: int = 3

    def __post_init__(self):
        require_positive(self, "max_consecutive_skips", "window")
        for field in ("threshold", "max_rollbacks"):
            if not getattr(self, field) >= 0:
                raise ValueError(f"LossSpikes.{field}={getattr(self, field)} must not be negative")


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """Attributes:
    stall_minutes: if no step, validation or save finishes for this long, the process writes the stacks of its threads
        and exits with 75, so that it is started again; 0: never. Compilation of the first step is included.
    profile_first, profile_last: first and last step to trace for TensorBoard; 0: none. Creating a file named `profile`
        in the stage's folder traces the next three steps.
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


# The benchmarks whose gold texts an evaluation during training can score, and those that it scores by default.
BENCHMARKS = ("humaneval", "mbpp", *(f"infilling_{kind}" for kind in ("single_line", "multi_line")))
BENCHMARKS += ("infilling_random_span", "infilling_random_span_light", *EXERCISES)
DEFAULT_BENCHMARKS = ("humaneval", "mbpp", "infilling_single_line")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Attributes:
    every: steps between evaluations; there is always one before the first step and one after the last. 0: a twentieth
        of the stage's steps.
    batches: number of batches of a validation, the same ones every time.
    benchmark_data: folder with the files of the benchmarks; None: only those of EXERCISES can be measured.
    benchmarks: one or more of BENCHMARKS. Each evaluation measures the bits per byte of their gold texts, the canonical
        solutions or middles, after the benchmark's own prompt. None: DEFAULT_BENCHMARKS if there is a folder, and
        those of EXERCISES that final_benchmarks names.
    final_benchmarks: benchmarks whose pass@1 is measured at the end of the stage: the model answers them, and the
        answers run in the sandbox of host 0. Names are those of the evaluate command.
    context_windows: number of windows for the curve of perplexity against context length.
    context_factor: ratio of the length of those windows to the parent's sequence length (without parent: the stage's).
    samples: number of infilling samples that are generated at the end, for the report.
    sample_tokens: maximum number of tokens of a sample.
    patience: number of evaluations in a row without a new lowest loss that ends the stage; 0: it runs to its last step.
        The stage then ends with the checkpoint that has the lowest loss. The loss is that of held-out infilling if
        infilling_cases is above 0, and otherwise the validation loss.
    infilling_cases: number of lines, and of spans of characters, that are removed from validation files (training/
        infilling_cases.py). Every evaluation measures the bits per byte of the removed texts. The stage compares the
        model before its first step with the result: the texts that they generate, on these files and on those of
        general_corpus. 0: none.
    infilling_context: maximum number of tokens of a prompt and the removed text; at most those of a window.
    infilling_tokens: maximum number of tokens that are generated for a case.
    general_corpus: a corpus of code of other origin, whose validation split shows what the model has forgotten, in the
        form of Corpus.code; None: the embedded one; (): none.
    """

    every: int = 1000
    batches: int = 8
    benchmark_data: str | None = None
    benchmarks: str | Sequence[str] | None = None
    final_benchmarks: str | Sequence[str] = ()
    context_windows: int = 32
    context_factor: int = 4
    samples: int = 3
    sample_tokens: int = 48
    patience: int = 0
    infilling_cases: int = 0
    infilling_context: int = 1024
    infilling_tokens: int = 64
    general_corpus: str | Sequence[str] | None = None

    def __post_init__(self):
        require_positive(self, "batches", "context_factor", "sample_tokens", "infilling_context", "infilling_tokens")
        for field in ("every", "context_windows", "samples", "patience", "infilling_cases"):
            if getattr(self, field) < 0:
                raise ValueError(f"Evaluation.{field}={getattr(self, field)} must not be negative")
        if self.benchmark_data is not None and (problem := locations.problem(self.benchmark_data)):
            raise ValueError(f"Evaluation.benchmark_data={problem}")
        for path in _names(self.general_corpus):
            if problem := locations.problem(path):
                raise ValueError(f"Evaluation.general_corpus={problem}")
        if unknown := [name for name in _names(self.benchmarks) if name not in BENCHMARKS]:
            raise ValueError(
                f"Evaluation.benchmarks names {unknown[0]!r}: those that can be measured during training are"
                f" {', '.join(BENCHMARKS)}"
            )
        for field in ("benchmarks", "final_benchmarks"):
            if set(_names(getattr(self, field))) - set(EXERCISES) and self.benchmark_data is None:
                raise ValueError(f"Evaluation.{field} needs Evaluation.benchmark_data, the folder with their files")

    @property
    def measured(self) -> tuple[str, ...]:
        """The benchmarks that every evaluation measures, each once."""
        if self.benchmarks is None:
            defaults = () if self.benchmark_data is None else DEFAULT_BENCHMARKS
            return defaults + tuple(name for name in self.measured_at_the_end if name in EXERCISES)
        return _names(self.benchmarks)

    @property
    def measured_at_the_end(self) -> tuple[str, ...]:
        """The benchmarks whose pass@1 is measured at the end, each once."""
        return _names(self.final_benchmarks)

    @property
    def measures_benchmarks(self) -> bool:
        """Whether any benchmark is measured."""
        return bool(self.measured or self.measured_at_the_end)


def _names(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names in a setting, which has one or several, each once."""
    return tuple(dict.fromkeys([value] if isinstance(value, str) else value or ()))
