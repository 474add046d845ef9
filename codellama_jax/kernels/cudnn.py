"""Attention on NVIDIA GPUs: cuDNN's fused kernel."""

import jax
from jax.ad_checkpoint import checkpoint_name


def attention(
    q_BSHK: jax.Array, k_BTGK: jax.Array, v_BTGK: jax.Array, segments: tuple[jax.Array, jax.Array] | None
) -> jax.Array:
    """`attention` of kernels/blocked.py for a complete sequence, in bfloat16 or float16.

    With segments the kernel reads a mask [B, 1, S, T] with one byte per element; without them no array is quadratic in
    the sequence length.
    """
    mask = None if segments is None else (segments[0][:, None, :, None] == segments[1][:, None, None, :])
    out_BSHK = jax.nn.dot_product_attention(q_BSHK, k_BTGK, v_BTGK, mask=mask, is_causal=True, implementation="cudnn")
    return checkpoint_name(out_BSHK.astype(v_BTGK.dtype), "attention")
