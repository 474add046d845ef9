"""The shape of a Llama and the numbers its mathematics depends on."""

import dataclasses

# Activations of a block that can be kept for the backward pass, by name; what is not kept is computed again.
#   input       the block's input: kept whatever is named, since all else is computed from it
#   q, k, v     queries, keys and values, rotated
#   attention   the kernel's output and, with splash, its normaliser: attention is not computed again
#   middle      the residual stream between attention and feed-forward
#   gate, up    the two products of the feed-forward layer: w1 h and w3 h
ACTIVATIONS = ("input", "q", "k", "v", "attention", "middle", "gate", "up")


@dataclasses.dataclass(frozen=True)
class Llama:
    """A Llama 2 decoder: pre-RMSNorm, SwiGLU, RoPE, grouped-query attention, untied head, no biases, no dropout.

    Attributes:
        dim: width of the residual stream (D).
        layers: number of decoder blocks (N).
        heads: query heads (H). The head dimension K is dim / heads.
        kv_heads: key and value heads (G); heads / kv_heads queries share one.
        ffn_dim: width of the feed-forward layer (F).
        vocab_size: rows of the embedding and of the output head (V), infilling rows included; 0 stands for as many as
            the run's tokenizer needs.
        norm_eps: epsilon of RMSNorm (1e-5 in Llama 2).
        rope_theta: base of the rotary frequencies theta_i = theta^(-2i/K). 1e4 in Llama 2, 1e6 after long-context
            fine-tuning (arXiv 2308.12950, section 2.4).
        rope_scale: factor on the positions. 1/4 is the position interpolation that section 2.4 compares with.
        compute_dtype: dtype of activations and matrix products, "bfloat16" or "float32". Parameters are float32; norms,
            rotation, softmax and logits are computed in float32 whatever this says.
        remat: what the backward pass computes again: "none", "full" (everything but each block's input), or all but the
            named ACTIVATIONS, such as "q+k+v+attention".
        offload: names in the same manner; those are kept too, in the host's memory instead of the device's.
        ffn_parts: parts of the feed-forward width that the backward pass goes through in turn where it computes them
            again, so that as much less of them exists at once; 1 with a tensor axis (step.make_loss).
        unroll: layers that are compiled one after the other, within the loop over layers: a divisor of `layers`. A CPU
            is a tenth faster with all of them, which it compiles as many times more slowly; on accelerators it is 1.
        attention: the kernel: "splash" (TPU), "cudnn" (GPU), "blocked" (anywhere), or "auto": that of the devices.
        attention_block: queries that "blocked" handles at a time, so that memory is linear in the sequence length.
        gathered_heads: key-value heads of a device whose keys and values are gathered at a time where the sequence is
            cut over devices; 0: all.
        splash_block, splash_block_backward: queries, and keys, that "splash" handles at a time.
        loss_chunk: tokens of a device whose logits exist at a time.
    """

    dim: int
    layers: int
    heads: int
    kv_heads: int
    ffn_dim: int
    vocab_size: int
    norm_eps: float = 1e-5
    rope_theta: float = 1e4
    rope_scale: float = 1.0
    compute_dtype: str = "bfloat16"
    remat: str = "full"
    offload: str = ""
    ffn_parts: int = 4
    unroll: int = 1
    attention: str = "auto"
    attention_block: int = 512
    gathered_heads: int = 0
    splash_block: int = 512
    splash_block_backward: int = 512
    loss_chunk: int = 2048

    def __post_init__(self):
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"Llama.dim={self.dim} must be an even multiple of Llama.heads={self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"Llama.heads={self.heads} must be a multiple of Llama.kv_heads={self.kv_heads}")
        if self.compute_dtype not in ("bfloat16", "float32"):
            raise ValueError(f"Llama.compute_dtype={self.compute_dtype!r} must be 'bfloat16' or 'float32'")
        if self.attention not in ("auto", "splash", "cudnn", "blocked"):
            raise ValueError(f"Llama.attention={self.attention!r} must be 'auto', 'splash', 'cudnn' or 'blocked'")
        for field, value in (("remat", self.kept), ("offload", self.offloaded)):
            if unknown := sorted(value - set(ACTIVATIONS)):
                words = "'none', 'full' or names" if field == "remat" else "names"
                raise ValueError(
                    f"Llama.{field}={getattr(self, field)!r}: {unknown[0]!r} is unknown; it must be {words} joined by"
                    f" '+', of {', '.join(ACTIVATIONS)}"
                )
        if self.ffn_parts < 1 or self.unroll < 1:
            raise ValueError(f"Llama.ffn_parts={self.ffn_parts} and Llama.unroll={self.unroll} must be at least 1")
        if self.remat == "none" and self.offload:
            raise ValueError("Llama.offload names what is kept: with Llama.remat='none' bind it to ''")

    @property
    def kept(self) -> frozenset[str]:
        """Names of the activations that stay on the device for the backward pass; with remat "none" all do."""
        return frozenset() if self.remat in ("none", "full") else frozenset(self.remat.split("+")) - self.offloaded

    @property
    def offloaded(self) -> frozenset[str]:
        """Names of those that wait in the host's memory."""
        return frozenset(self.offload.split("+")) if self.offload else frozenset()

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def parameters(self) -> int:
        """Number of parameters, embedding and output head included."""
        attention = 2 * self.dim * self.head_dim * (self.heads + self.kv_heads)
        block = attention + 3 * self.dim * self.ffn_dim + 2 * self.dim
        return self.layers * block + 2 * self.vocab_size * self.dim + self.dim

    def train_flops_per_token(self, sequence_length: int) -> float:
        """Model FLOPs of forward and backward for one token, causal attention counted half.

        6 for each parameter of a matrix product (the embedding lookup is none), and for each layer and head
        12 K S / 2 for scores and values over the causal half of the square.
        """
        matmul_parameters = self.parameters - self.vocab_size * self.dim - (2 * self.layers + 1) * self.dim
        return 6.0 * matmul_parameters + 6.0 * self.layers * self.dim * sequence_length
