"""The shape of a Llama and the numbers its mathematics depends on."""

import dataclasses


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
        remat: what the backward pass recomputes, from nothing to everything: "none", "dots" (keeps the outputs of the
            matrix products with weights) or "full" (keeps each block's input only).
        attention: the kernel: "splash" (TPU), "cudnn" (GPU), "blocked" (anywhere), or "auto": that of the devices.
        attention_block: queries that "blocked" handles at a time, so that memory is linear in the sequence length.
        splash_block, splash_block_backward: queries, and keys, that "splash" handles at a time.
        loss_chunk: tokens of a sequence whose logits exist at a time.
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
    attention: str = "auto"
    attention_block: int = 512
    splash_block: int = 512
    splash_block_backward: int = 512
    loss_chunk: int = 512

    def __post_init__(self):
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"Llama.dim={self.dim} must be an even multiple of Llama.heads={self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"Llama.heads={self.heads} must be a multiple of Llama.kv_heads={self.kv_heads}")
        if self.compute_dtype not in ("bfloat16", "float32"):
            raise ValueError(f"Llama.compute_dtype={self.compute_dtype!r} must be 'bfloat16' or 'float32'")
        if self.attention not in ("auto", "splash", "cudnn", "blocked"):
            raise ValueError(f"Llama.attention={self.attention!r} must be 'auto', 'splash', 'cudnn' or 'blocked'")
        if self.remat not in ("none", "dots", "full"):
            raise ValueError(f"Llama.remat={self.remat!r} must be 'none', 'dots' or 'full'")

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
