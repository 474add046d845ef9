"""Attention on TPUs: JAX's splash kernel, which never touches the blocks above the diagonal."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

# The output and the softmax's normaliser, under a name for remat policies: one that keeps them recomputes no attention.
RESIDUALS = "attention"


class _OrderedCausalMask(masks.CausalMask):
    """Causal, for queries that stand in another order than the keys."""

    def __init__(self, shape: tuple[int, int], order: np.ndarray, shards: int):
        super().__init__(shape, shard_count=shards)
        self.q_sequence = order.astype(np.int32)

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        """A block of the mask; of one that is all the same a single element.

        JAX asks each block whether any, and whether all of it is true. The corners tell of most: comparing every
        element at 100,000 tokens would take a minute and a half of each start.
        """
        queries, keys = self.q_sequence[index[0]], range(*index[1].indices(self.shape[1]))
        if queries.min() >= keys[-1] or queries.max() < keys[0]:
            return np.full((1, 1), queries.min() >= keys[-1])
        return super().__getitem__(index)

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)

    def __hash__(self) -> int:
        return super().__hash__()


def kernel(
    heads: int, length: int, block: int, block_backward: int, shards: int, interpret: bool
) -> splash.SplashAttentionKernel:
    """The kernel for causal attention of `length` queries over as many keys.

    Args:
        heads: query heads of a device.
        length: of the whole sequence.
        block, block_backward: queries, and keys, at a time; lowered where they do not divide a device's.
        shards: parts that the queries are cut into, in the order of `balanced`.
        interpret: run on a CPU, slowly.
    """
    mask = _OrderedCausalMask((length, length), balanced(length, shards), shards)
    queries = length // shards

    def fitting(size: int, whole: int) -> int:
        return max(b for b in range(min(size, whole), 0, -1) if whole % b == 0 and (b % 128 == 0 or b == whole))

    q, kv = fitting(block, queries), fitting(block, length)
    q_backward, kv_backward = fitting(block_backward, queries), fitting(block_backward, length)
    sizes = splash.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=kv,
        # Two backward kernels: the fused one keeps a part of dq for every block of keys (4 GiB a device at 7B).
        block_q_dkv=q_backward,
        block_kv_dkv=kv_backward,
        block_kv_dkv_compute=kv_backward,
        block_q_dq=q_backward,
        block_kv_dq=kv_backward,
    )
    return splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=shards,
        residual_checkpoint_name=RESIDUALS,
        interpret=interpret,
    )


def balanced(length: int, shards: int) -> np.ndarray:
    """Positions of the tokens of a sequence in the order in which `shards` devices have them, int [length].

    Device i has the i-th stretch from the front and the i-th from the back, of 2 x shards: so each has as many blocks
    below the diagonal as any other. For one device it is the order of the text.
    """
    if shards == 1:
        return np.arange(length)
    stretches = np.arange(length).reshape(2 * shards, -1)
    return np.concatenate([np.concatenate([stretches[i], stretches[-1 - i]]) for i in range(shards)])


def attention(
    q_BSHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None,
    kernel: splash.SplashAttentionKernel,
) -> jax.Array:
    """As kernels/blocked.py, on one device of a mesh: `kernel` is its part of what `kernel()` gave."""
    q_BHSK = (q_BSHK * q_BSHK.shape[-1] ** -0.5).transpose(0, 2, 1, 3)
    k_BGTK, v_BGTK = k_BTGK.transpose(0, 2, 1, 3), v_BTGK.transpose(0, 2, 1, 3)
    ids = None if segments is None else splash.SegmentIds(*segments)
    out_BHSK = jax.vmap(kernel, in_axes=(0, 0, 0, None if ids is None else 0))(q_BHSK, k_BGTK, v_BGTK, ids)
    return jnp.asarray(out_BHSK).transpose(0, 2, 1, 3).astype(v_BTGK.dtype)
