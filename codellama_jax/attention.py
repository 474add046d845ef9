"""Attention over a mesh: selects the kernel and distributes queries, keys and values.

Windows are sharded over data and fsdp, heads over tensor: these shards need no communication. Along `context` each
device holds a chunk of every sequence. Keys and values are all-gathered. Queries at the end of a sequence attend to far
more keys than those at the front, so queries are exchanged first: each device gets a chunk from the front and one from
the back (kernels.splash.load_balanced_order).

If the keys and values of all heads do not fit in memory together, they are gathered for a few heads at a time, in the
forward pass and again in the backward pass. That bounds memory as ring attention would, with the same communication
volume, but each head has its complete softmax in one kernel: the kernel and the results are unchanged.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codellama_jax.config.model import Llama
from codellama_jax.errors import UserError
from codellama_jax.kernels import blocked, cudnn, splash, splash_cycles
from codellama_jax.model.llama import Attend
from codellama_jax.sharding import spec

KERNELS = {"tpu": "splash", "cuda": "cudnn", "gpu": "cudnn", "cpu": "blocked"}


def make_attend(config: Llama, mesh: Mesh) -> Attend:
    """Makes the attention function of a model on a mesh. config.attention names the kernel; "auto" selects it by the
    platform of the devices.

    Raises:
        UserError: config.attention is "cudnn" and the mesh has a context axis.
    """
    context = mesh.shape["context"]
    if config.attention == "cudnn" and context > 1:
        raise UserError(
            "Llama.attention='cudnn' cannot shard sequences: bind Mesh.context=1, or Llama.attention='blocked'"
        )
    platform = mesh.devices.flat[0].platform
    queries, keys = spec(("batch", "sequence", "heads", None)), spec(("batch", "sequence", "kv_heads", None))
    tokens = spec(("batch", "sequence"))

    def attend(q_BSHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, segments_BS: jax.Array | None) -> jax.Array:
        length = q_BSHK.shape[1]
        name = _kernel(config, platform, length, context)
        if name == "blocked" and context == 1:
            return blocked.self_attention(q_BSHK, k_BSGK, v_BSGK, segments_BS, config.attention_block)
        order = jnp.asarray(splash.load_balanced_order(length, context), jnp.int32)
        heads, kv_heads = (x.shape[2] // mesh.shape["tensor"] for x in (q_BSHK, k_BSGK))
        groups = _num_head_groups(config, kv_heads, context)
        kernel, kernel_spec = None, None
        if name == "splash":
            heads, kv_heads = heads // groups, kv_heads // groups
            shape = splash_cycles.Shape(
                segments_BS is not None, length // context, length, heads, kv_heads, config.head_dim
            )
            sizes = _splash_blocks(config, mesh, shape)
            kernel = splash.kernel(heads, length, *sizes, context, interpret=platform == "cpu")
            kernel_spec = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, "context")))

        def on_device(q, k, v, segments, order, kernel):
            segment_ids = None
            if segments is not None:
                gathered = jax.lax.all_gather(segments, "context", axis=1, tiled=True) if context > 1 else segments
                segment_ids = (gathered[:, order] if context > 1 else segments, gathered)

            def attend_heads(q, k, v):
                if context > 1:
                    k, v = (jax.lax.all_gather(x, "context", axis=1, tiled=True) for x in (k, v))
                    q = _exchange_chunks(q, context)
                if name == "splash":
                    out = splash.attention(q, k, v, segment_ids, kernel)
                elif name == "cudnn":
                    out = cudnn.attention(q, k, v, segment_ids)
                else:
                    out = blocked.attention(q, k, v, segment_ids, order, config.attention_block)
                return _exchange_chunks(out, context, inverse=True) if context > 1 else out

            return attend_heads(q, k, v) if groups == 1 else _attend_in_groups(attend_heads, groups, q, k, v)

        return jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(queries, keys, keys, tokens, PartitionSpec("context"), kernel_spec),
            out_specs=queries,
            check_vma=False,
        )(q_BSHK, k_BSGK, v_BSGK, segments_BS, order, kernel)

    return attend


def _splash_blocks(config: Llama, mesh: Mesh, shape: splash_cycles.Shape) -> tuple[int, int]:
    """Block sizes of splash, forward and backward; those that are not set are the fastest of the chip."""
    fastest = functools.partial(splash_cycles.fastest_block, mesh.devices.flat[0].device_kind, shape=shape)
    forward = config.splash_block or fastest(splash_cycles.FORWARD)
    return forward, config.splash_block_backward or fastest(splash_cycles.BACKWARD)


def _kernel(config: Llama, platform: str, length: int, context: int) -> str:
    """The kernel for windows of this length. "auto" falls back to "blocked" if the platform's kernel does not support
    them."""
    if config.attention != "auto":
        return config.attention
    name = KERNELS[platform]
    tiles = config.head_dim % 128 == 0 and length % (2 * 128 * context if context > 1 else 128) == 0
    # cuDNN needs half precision, and has no mask for queries that are a shard of the sequence.
    unsharded_half = config.compute_dtype == "bfloat16" and context == 1
    return name if {"splash": tiles, "cudnn": unsharded_half, "blocked": True}[name] else "blocked"


def _num_head_groups(config: Llama, kv_heads: int, context: int) -> int:
    """The number of groups into which the key-value heads of a device are split; groups are gathered one by one."""
    limit = config.gathered_heads
    if context == 1 or limit == 0:
        return 1
    return kv_heads // max(heads for heads in range(1, min(limit, kv_heads) + 1) if kv_heads % heads == 0)


def _attend_in_groups(attend: Callable[..., jax.Array], groups: int, *arrays: jax.Array) -> jax.Array:
    """Computes attend(q, k, v) for one group of heads at a time. Gathered keys and values are not saved: the backward
    pass gathers them again."""
    policy = jax.checkpoint_policies.save_only_these_names(splash.RESIDUAL_NAME)
    attend = functools.partial(jax.checkpoint, policy=policy, prevent_cse=False)(attend)
    stacked = [jnp.stack(jnp.split(x, groups, axis=2)) for x in arrays]
    _, out = jax.lax.scan(lambda carry, group: (carry, attend(*group)), None, tuple(stacked))
    return jnp.concatenate(list(out), axis=2)


def _exchange_chunks(x_BSHK: jax.Array, devices: int, inverse: bool = False) -> jax.Array:
    """Moves chunks 2i and 2i + 1 of each device i to the devices of splash.load_balanced_order, where device i has
    chunks i and 2 x devices - 1 - i; `inverse` moves them back.

    The first chunks of all devices are sent to different devices, and so are the second chunks. Each is a permutation.
    """
    first, second = jnp.split(x_BSHK, 2, axis=1)

    def target(chunk: int) -> int:
        return chunk if chunk < devices else 2 * devices - 1 - chunk

    moves = [[(i, target(2 * i + half)) for i in range(devices)] for half in (0, 1)]
    odd = jax.lax.axis_index("context") % 2 == 1
    # On odd devices the first permutation delivers the chunk from the back of the sequence, the second the front one.
    if inverse:
        first, second = jnp.where(odd, second, first), jnp.where(odd, first, second)
        moves = [[(destination, source) for source, destination in half] for half in moves]
    first, second = jax.lax.ppermute(first, "context", moves[0]), jax.lax.ppermute(second, "context", moves[1])
    if not inverse:
        first, second = jnp.where(odd, second, first), jnp.where(odd, first, second)
    return jnp.concatenate([first, second], axis=1)
