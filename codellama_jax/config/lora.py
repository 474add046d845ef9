"""Settings of low-rank adapters (LoRA, arXiv 2106.09685)."""

import dataclasses
import math

from codellama_jax.config.model import Llama

TARGETS = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")  # the matrices of a block (model/llama.py)
BASE_DTYPES = ("float32", "bfloat16", "int8")


@dataclasses.dataclass(frozen=True)
class Lora:
    """Low-rank adapters: a stage trains, for each of some matrices W [in, out], two factors A [in, rank] and
    B [rank, out], and computes x W + scale (x A) B. All other parameters are frozen: they have neither gradients nor
    moments, and the checkpoints of the stage contain the factors only.

    Attributes:
        rank: columns of A and rows of B; 0: no adapters, all parameters are trained.
        alpha: the scale is alpha / rank.
        dropout: share of the inputs of A that are set to 0, of each matrix on its own; the others are divided by
            1 - dropout.
        targets: the matrices with adapters: names of TARGETS joined by '+'.
        rslora: the scale is alpha / sqrt(rank) instead (rank-stabilised LoRA, arXiv 2312.03732).
        base_dtype: storage of the frozen matrices: "float32", "bfloat16", or "int8" with a scale for each output
            channel. With "int8", embedding and head are bfloat16. Norms are float32 in all cases.
    """

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str = "+".join(TARGETS)
    rslora: bool = False
    base_dtype: str = "bfloat16"

    def __post_init__(self):
        if self.rank < 0:
            raise ValueError(f"Lora.rank={self.rank} must be at least 1, or 0 for no adapters")
        if not 0 < self.alpha < math.inf:  # also false for NaN
            raise ValueError(f"Lora.alpha={self.alpha} must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Lora.dropout={self.dropout} must be at least 0 and below 1")
        names = self.targets.split("+")
        if unknown := [name for name in names if name not in TARGETS]:
            raise ValueError(
                f"Lora.targets={self.targets!r}: {unknown[0]!r} is unknown; it must be names joined by '+', of"
                f" {', '.join(TARGETS)}"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"Lora.targets={self.targets!r} names a matrix twice")
        if self.base_dtype not in BASE_DTYPES:
            raise ValueError(f"Lora.base_dtype={self.base_dtype!r} must be 'float32', 'bfloat16' or 'int8'")

    @property
    def names(self) -> tuple[str, ...]:
        """The matrices with adapters, in the order of TARGETS; empty without adapters."""
        return tuple(name for name in TARGETS if name in self.targets.split("+")) if self.rank else ()

    @property
    def scale(self) -> float:
        """The factor of (x A) B."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def parameters(self, llama: Llama) -> int:
        """Number of parameters of all adapters of a model."""
        return llama.layers * self.rank * sum(sum(llama.matrices[name]) for name in self.names)

    def frozen_bytes(self, llama: Llama) -> int:
        """Bytes of the frozen model."""
        if self.base_dtype == "int8":  # embedding and head have two bytes
            return llama.parameters + (1 if llama.tied else 2) * llama.vocab_size * llama.dim
        return llama.parameters * {"float32": 4, "bfloat16": 2}[self.base_dtype]

    def train_flops_per_token(self, llama: Llama, sequence_length: int) -> float:
        """Model FLOPs of the forward and backward pass for one token, as those of the model without adapters.

        A frozen matrix has no gradient, which is 2 of the 6 FLOPs for each of its parameters.
        """
        complete = llama.train_flops_per_token(sequence_length)
        return complete - 2.0 * llama.matmul_parameters + 6.0 * self.parameters(llama) if self.rank else complete


OFF = Lora()
