"""Attention on TPUs: JAX's splash kernel, which skips the blocks above the diagonal."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from codellama_jax.kernels.splash_cycles import divisor

# Name under which remat policies find the output and the log-sum-exp of the softmax. A policy that saves this name does
# not recompute attention.
RESIDUAL_NAME = "attention"


class _OrderedCausalMask(masks.CausalMask):
    """A causal mask for queries that are in a different order than the keys."""

    def __init__(self, shape: tuple[int, int], order: np.ndarray, shards: int):
        super().__init__(shape, shard_count=shards)
        self.q_sequence = order.astype(np.int32)

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        """A block of the mask; a single element if all elements of the block are equal.

        JAX evaluates `any` and `all` on each block. Most blocks are decided by their smallest and largest
        positions: comparing every element at 100,000 tokens would add a minute and a half to each start.
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
    """Makes the kernel for causal self-attention over sequences of `length` tokens.

    Args:
        heads: query heads per device.
        length: length of the complete sequence.
        block, block_backward: maximum block size of queries and keys in the forward and the backward pass; reduced to a
            size that divides the queries of a device, or the keys (splash_cycles.fastest_block knows a good one).
        shards: number of shards of the queries, in the order of `load_balanced_order`.
        interpret: run in interpret mode on a CPU (slow).
    """
    mask = _OrderedCausalMask((length, length), load_balanced_order(length, shards), shards)
    queries = length // shards
    q, kv = divisor(block, queries), divisor(block, length)
    q_backward, kv_backward = divisor(block_backward, queries), divisor(block_backward, length)
    sizes = splash.BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=kv,
        # Two backward kernels: the fused one computes less, but stores a partial dq for every block of keys. XLA adds
        # them up in more time than it saves: 7B on v5p 0.31 s of a step against 0.2 s, on v6e 0.62 s against 0.24 s.
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
        residual_checkpoint_name=RESIDUAL_NAME,
        interpret=interpret,
    )


def load_balanced_order(length: int, shards: int) -> np.ndarray:
    """Positions of the tokens of a sequence in the order in which they are assigned to devices, int [length].

    The sequence is cut into 2 x shards chunks. Device i has the i-th chunk from the front and the i-th from the back,
    so that all devices have the same number of blocks below the diagonal. With one shard the order is unchanged.
    """
    if shards == 1:
        return np.arange(length)
    chunks = np.arange(length).reshape(2 * shards, -1)
    return np.concatenate([np.concatenate([chunks[i], chunks[-1 - i]]) for i in range(shards)])


def attention(
    q_BSHK: jax.Array,
    k_BTGK: jax.Array,
    v_BTGK: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None,
    kernel: splash.SplashAttentionKernel,
) -> jax.Array:
    """`attention` of kernels/blocked.py on one device of a mesh; `kernel` is that device's shard of a kernel()."""
    q_BHSK = (q_BSHK * q_BSHK.shape[-1] ** -0.5).transpose(0, 2, 1, 3)
    k_BGTK, v_BGTK = k_BTGK.transpose(0, 2, 1, 3), v_BTGK.transpose(0, 2, 1, 3)
    ids = None if segments is None else splash.SegmentIds(*segments)
    out_BHSK = jax.vmap(kernel, in_axes=(0, 0, 0, None if ids is None else 0))(q_BHSK, k_BGTK, v_BGTK, ids)
    return jnp.asarray(out_BHSK).transpose(0, 2, 1, 3).astype(v_BTGK.dtype)
