"""The shape of a Llama model and its numerics."""

import dataclasses
import math

from codellama_jax.config import rope

# Names of the activations of a block that can be saved for the backward pass; the others are recomputed.
#   input       the input of the block: always saved, since the others are computed from it
#   q, k, v     queries and keys after rotation, and values
#   attention   the output of the kernel and, with splash, its log-sum-exp: attention is not recomputed
#   middle      the residual stream between attention and feed-forward
#   gate, up    the two products of the feed-forward layer: w1 h and w3 h
ACTIVATIONS = ("input", "q", "k", "v", "attention", "middle", "gate", "up")
BIASES = ("bq", "bk", "bv")  # of queries, keys and values, with Llama.qkv_bias


@dataclasses.dataclass(frozen=True)
class Llama:
    """A decoder of the Llama family: pre-RMSNorm, SwiGLU, RoPE, grouped-query attention, no dropout.

    Llama 2 has an output head of its own and no biases; `tied`, `qkv_bias`, `head_width` and `rope_type` describe its
    near kin (docs/families.md).

    Attributes:
        dim: width of the residual stream (D).
        layers: number of decoder blocks (N).
        heads: query heads (H).
        kv_heads: key and value heads (G); heads / kv_heads queries share one.
        ffn_dim: width of the feed-forward layer (F).
        vocab_size: rows of the embedding and of the output head (V), including those of infilling tokens; 0: the number
            that the run's tokenizer needs.
        head_width: channels of a head (K); 0: dim / heads. `head_dim` is the resulting number.
        qkv_bias: whether the projections to queries, keys and values have a bias, as in Qwen2.
        tied: whether the output head is the embedding: one matrix, which both uses train.
        init_std: standard deviation of the initial weights (assumption: Llama's initialisation is not published).
        padding_rows: how many of these rows, at the end, have no token: they are never predicted and not trained. A
            stage derives the number from its tokenizer; it need not be bound.
        norm_eps: epsilon of RMSNorm (1e-5 in Llama 2).
        rope_theta: base of the rotary frequencies theta_i = theta^(-2i/K). 1e4 in Llama 2, 1e6 after long-context
            fine-tuning (arXiv 2308.12950, section 2.4).
        rope_scale: factor on the positions. 1/4 is the position interpolation that section 2.4 compares with.
        rope_type: how the frequencies are changed for longer contexts (model/rope.py): "default": not at all; "dynamic"
            (NTK), "yarn" or "llama3". The names and values are those of transformers, whose "linear" is rope_scale.
        rope_factor: how many times longer the contexts are, for all types but "default".
        rope_original_positions: number of positions before that change.
        rope_low_freq_factor, rope_high_freq_factor: of "llama3": frequencies with fewer than low_freq_factor periods in
            the original positions are divided by rope_factor, those with more than high_freq_factor are kept.
        rope_beta_fast, rope_beta_slow: of "yarn": frequencies with more periods than beta_fast are kept, those with
            fewer than beta_slow are divided by rope_factor.
        rope_truncate: of "yarn": whether the channels of these two bounds are rounded to whole numbers.
        rope_attention_factor: of "yarn": factor on queries and keys; 0: 0.1 ln(rope_factor) + 1, or the ratio of that
            with each of the next two.
        rope_mscale, rope_mscale_all_dim: of "yarn": factors on the logarithm in numerator and denominator; 0: not set.
        compute_dtype: dtype of activations and matrix products, "bfloat16" or "float32". Parameters are always float32;
            norms, rotation, softmax and logits are always computed in float32.
        product_dtype: dtype of the products of activations and weights in the blocks during training: "int8", "float8",
            or "" for compute_dtype, in which the paper trained. Rows and columns have their own scales
            (kernels/quantized_products.py).
        remat: what the backward pass recomputes: "none", "full" (everything except the input of each block), or the
            ACTIVATIONS to save, such as "q+k+v+attention".
        offload: ACTIVATIONS, in the same form, that are saved in the host's memory instead of the device's.
        ffn_parts: number of parts into which the recomputation of the feed-forward layer is split along its width, to
            reduce its peak memory; always 1 with a tensor axis (step.make_loss).
        unroll: number of layers in one iteration of the loop over layers. With all layers, a step on a CPU is about
            a tenth faster, but compilation takes that many times longer; 1 on accelerators.
        attention: the kernel: "splash" (TPU), "cudnn" (GPU), "blocked" (all platforms), or "auto" (by the platform).
        attention_block: number of queries in a block of "blocked", which keeps memory linear in the sequence length.
        gathered_heads: number of key-value heads per device that are all-gathered at a time if the sequence is sharded;
            0: all.
        splash_block, splash_block_backward: number of queries, and of keys, in a block of "splash"; 0: the fastest for
            the chip, the heads and the length (kernels/splash_cycles.py).
        loss_chunk: number of tokens per device whose logits are in memory at a time.
    """

    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn_dim: int
    vocab_size: int
    head_width: int = 0
    qkv_bias: bool = False
    tied: bool = False
    norm_eps: float = 1e-5
    rope_theta: float = 1e4
    rope_scale: float = 1.0
    rope_type: str = "default"
    rope_factor: float = 1.0
    rope_original_positions: int = 0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_beta_fast: float = 32.0
    rope_beta_slow: float = 1.0
    rope_truncate: bool = True
    rope_attention_factor: float = 0.0
    rope_mscale: float = 0.0
    rope_mscale_all_dim: float = 0.0
    compute_dtype: str = "bfloat16"
    product_dtype: str = ""
    remat: str = "full"
    offload: str = ""
    ffn_parts: int = 4
    unroll: int = 1
    attention: str = "auto"
    attention_block: int = 512
    gathered_heads: int = 0
    splash_block: int = 0
    splash_block_backward: int = 0
    loss_chunk: int = 2048
    init_std: float = 0.02
    padding_rows: int = 0

    def __post_init__(self):
        for field in ("dim", "layers", "heads", "kv_heads", "ffn_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"Llama.{field}={getattr(self, field)} must be at least 1")
        if self.vocab_size < 0:
            raise ValueError(f"Llama.vocab_size={self.vocab_size} must be at least 1, or 0 for the tokenizer's number")
        self._check_ranges()
        if self.head_width < 0 or self.head_width % 2:
            raise ValueError(f"Llama.head_width={self.head_width} must be an even number, or 0 for dim / heads")
        if not self.head_width and (self.dim % self.heads or (self.dim // self.heads) % 2):
            raise ValueError(f"Llama.dim={self.dim} must be an even multiple of Llama.heads={self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"Llama.heads={self.heads} must be a multiple of Llama.kv_heads={self.kv_heads}")
        if self.compute_dtype not in ("bfloat16", "float32"):
            raise ValueError(f"Llama.compute_dtype={self.compute_dtype!r} must be 'bfloat16' or 'float32'")
        if self.product_dtype not in ("", "int8", "float8"):
            raise ValueError(f"Llama.product_dtype={self.product_dtype!r} must be 'int8', 'float8' or ''")
        if self.attention not in ("auto", "splash", "cudnn", "blocked"):
            raise ValueError(f"Llama.attention={self.attention!r} must be 'auto', 'splash', 'cudnn' or 'blocked'")
        for field, value in (("remat", self.saved), ("offload", self.offloaded)):
            if unknown := sorted(value - set(ACTIVATIONS)):
                allowed = "'none', 'full' or names" if field == "remat" else "names"
                raise ValueError(
                    f"Llama.{field}={getattr(self, field)!r}: {unknown[0]!r} is unknown; it must be {allowed} joined by"
                    f" '+', of {', '.join(ACTIVATIONS)}"
                )
        if self.ffn_parts < 1 or self.unroll < 1:
            raise ValueError(f"Llama.ffn_parts={self.ffn_parts} and Llama.unroll={self.unroll} must be at least 1")
        if self.remat == "none" and self.offload:
            raise ValueError(
                f"Llama.offload={self.offload!r} needs rematerialisation: bind it to '', or change Llama.remat='none'"
            )

    def _check_ranges(self) -> None:
        """Refuses values that cannot be meant. `not a < b` is also true for NaN."""
        if not 0 < self.norm_eps < 1:
            raise ValueError(f"Llama.norm_eps={self.norm_eps} must be above 0 and below 1; Llama 2 has 1e-5")
        if not 1 < self.rope_theta < math.inf:
            raise ValueError(f"Llama.rope_theta={self.rope_theta} must be above 1; Llama 2 has 1e4")
        if not 0 < self.rope_scale <= 1:
            meant = ""
            if 1 < self.rope_scale < math.inf:
                meant = f": for {self.rope_scale:g} times the length, bind it to {1 / self.rope_scale:g}"
            raise ValueError(
                f"Llama.rope_scale={self.rope_scale} must be above 0 and at most 1, because positions are multiplied by"
                f" it{meant}"
            )
        rope.check(self)
        for field in ("attention_block", "loss_chunk"):
            if getattr(self, field) < 1:
                raise ValueError(f"Llama.{field}={getattr(self, field)} must be at least 1")
        if not 0 < self.init_std < 1:
            raise ValueError(f"Llama.init_std={self.init_std} must be above 0 and below 1")
        for field in ("gathered_heads", "padding_rows", "splash_block", "splash_block_backward"):
            if getattr(self, field) < 0:
                raise ValueError(f"Llama.{field}={getattr(self, field)} must not be negative")

    @property
    def saved(self) -> frozenset[str]:
        """Names of the activations saved on the device by a remat policy; empty with "none", which saves all."""
        return frozenset() if self.remat in ("none", "full") else frozenset(self.remat.split("+")) - self.offloaded

    @property
    def offloaded(self) -> frozenset[str]:
        """Names of the activations saved in the host's memory."""
        return frozenset(self.offload.split("+")) if self.offload else frozenset()

    @property
    def head_dim(self) -> int:
        """Channels of a head (K)."""
        return self.head_width or self.dim // self.heads

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """The numbers of inputs and of outputs of each matrix of a block."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "wq": (self.dim, queries),
            "wk": (self.dim, keys),
            "wv": (self.dim, keys),
            "wo": (queries, self.dim),
            "w1": (self.dim, self.ffn_dim),
            "w3": (self.dim, self.ffn_dim),
            "w2": (self.ffn_dim, self.dim),
        }

    @property
    def parameters(self) -> int:
        """Number of parameters, including embedding and output head; a tied head is not counted again."""
        embedding = 0 if self.tied else self.vocab_size * self.dim
        return self.matmul_parameters + embedding + self._vectors

    @property
    def matmul_parameters(self) -> int:
        """Number of parameters of matrix products: those of the blocks, and the head, tied or not."""
        block = sum(inputs * outputs for inputs, outputs in self.matrices.values())
        return self.layers * block + self.vocab_size * self.dim

    @property
    def _vectors(self) -> int:
        """Number of parameters of norms and biases."""
        biases = self.head_dim * (self.heads + 2 * self.kv_heads) if self.qkv_bias else 0
        return self.layers * (2 * self.dim + biases) + self.dim

    def train_flops_per_token(self, sequence_length: int) -> float:
        """Model FLOPs of the forward and backward pass for one token, with causal attention counted half.

        6 for each parameter of a matrix product (the embedding is a lookup, not a product), and for each layer and head
        12 K S / 2 for scores and values over the causal half of the score matrix.
        """
        attention = 6.0 * self.layers * self.heads * self.head_dim * sequence_length
        return 6.0 * self.matmul_parameters + attention
