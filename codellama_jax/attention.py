"""Attention over a mesh: which kernel, on which part of the sequence, with which keys.

Rows lie on data and fsdp, heads on tensor: those parts need nothing of one another. Along `context` a device has a
stretch of every sequence. Its keys and values are gathered; of the queries, a stretch at the end sees far more keys
than one at the front, so they are exchanged first: each device gets one from the front and one from the back.

Where the keys and values of all heads do not fit at once, they are gathered a few heads at a time, forwards and again
backwards. That bounds the memory as passing them round in a ring would, and sends as much, but every head has its whole
softmax at once: the kernel is the same, and so are the results.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codellama_jax.config.model import Llama
from codellama_jax.errors import UserError
from codellama_jax.kernels import blocked, cudnn, splash
from codellama_jax.model.llama import Attend
from codellama_jax.sharding import spec

KERNELS = {"tpu": "splash", "cuda": "cudnn", "gpu": "cudnn", "cpu": "blocked"}


def make_attend(config: Llama, mesh: Mesh) -> Attend:
    """The attention for a model on a mesh: config.attention names the kernel, "auto" takes that of the devices."""
    context = mesh.shape["context"]
    if config.attention == "cudnn" and context > 1:
        raise UserError(
            "Llama.attention='cudnn' has no mask for a part of a sequence: bind Mesh.context=1, or 'blocked'"
        )
    platform = mesh.devices.flat[0].platform
    queries, keys = spec(("batch", "sequence", "heads", None)), spec(("batch", "sequence", "kv_heads", None))
    rows = spec(("batch", "sequence"))

    def attend(q_BSHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, segments_BS: jax.Array | None) -> jax.Array:
        length = q_BSHK.shape[1]
        name = _kernel(config, platform, length, context)
        if name == "blocked" and context == 1:
            return blocked.whole(q_BSHK, k_BSGK, v_BSGK, segments_BS, config.attention_block)
        order = jnp.asarray(splash.balanced(length, context), jnp.int32)
        heads, kv_heads = (x.shape[2] // mesh.shape["tensor"] for x in (q_BSHK, k_BSGK))
        groups = _head_groups(config, kv_heads, context)
        kernel, part = None, None
        if name == "splash":
            heads //= groups
            sizes = config.splash_block, config.splash_block_backward
            kernel = splash.kernel(heads, length, *sizes, context, interpret=platform == "cpu")
            part = kernel.manual_sharding_spec(NamedSharding(mesh, PartitionSpec(None, "context")))

        def on_device(q, k, v, segments, order, kernel):
            ids = None
            if segments is not None:
                whole = jax.lax.all_gather(segments, "context", axis=1, tiled=True) if context > 1 else segments
                ids = (whole[:, order] if context > 1 else segments, whole)

            def of_heads(q, k, v):
                if context > 1:
                    k, v = (jax.lax.all_gather(x, "context", axis=1, tiled=True) for x in (k, v))
                    q = _exchange(q, context)
                if name == "splash":
                    out = splash.attention(q, k, v, ids, kernel)
                elif name == "cudnn":
                    out = cudnn.attention(q, k, v, ids)
                else:
                    out = blocked.attention(q, k, v, ids, order, config.attention_block)
                return _exchange(out, context, back=True) if context > 1 else out

            return of_heads(q, k, v) if groups == 1 else _in_groups(of_heads, groups, q, k, v)

        return jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(queries, keys, keys, rows, PartitionSpec("context"), part),
            out_specs=queries,
            check_vma=False,
        )(q_BSHK, k_BSGK, v_BSGK, segments_BS, order, kernel)

    return attend


def _kernel(config: Llama, platform: str, length: int, context: int) -> str:
    """The kernel for windows of a length; with "auto" the portable one where the devices' own cannot have them."""
    if config.attention != "auto":
        return config.attention
    name = KERNELS[platform]
    tiles = config.head_dim % 128 == 0 and length % (2 * 128 * context if context > 1 else 128) == 0
    # cuDNN takes half precision only, and has no mask for queries that are not the whole sequence.
    whole = config.compute_dtype == "bfloat16" and context == 1
    return name if {"splash": tiles, "cudnn": whole, "blocked": True}[name] else "blocked"


def _head_groups(config: Llama, kv_heads: int, context: int) -> int:
    """Parts of a device's key-value heads that are gathered one after the other."""
    at_once = config.gathered_heads
    if context == 1 or at_once == 0:
        return 1
    return kv_heads // max(heads for heads in range(1, min(at_once, kv_heads) + 1) if kv_heads % heads == 0)


def _in_groups(attend: Callable[..., jax.Array], groups: int, *arrays: jax.Array) -> jax.Array:
    """attend(q, k, v) for a part of the heads at a time. What it gathers is not kept, but gathered again backwards."""
    keep = jax.checkpoint_policies.save_only_these_names(splash.RESIDUALS)
    attend = functools.partial(jax.checkpoint, policy=keep, prevent_cse=False)(attend)
    parts = [jnp.stack(jnp.split(x, groups, axis=2)) for x in arrays]
    _, out = jax.lax.scan(lambda carry, part: (carry, attend(*part)), None, tuple(parts))
    return jnp.concatenate(list(out), axis=2)


def _exchange(x_BSHK: jax.Array, devices: int, back: bool = False) -> jax.Array:
    """From stretches 2i and 2i + 1 of device i to stretches i and 2 x devices - 1 - i (splash.balanced); `back` undoes.

    A device's first stretch and its second each go to another device, and each device gets one of either: two
    permutations.
    """
    first, second = jnp.split(x_BSHK, 2, axis=1)

    def to(stretch: int) -> int:
        return stretch if stretch < devices else 2 * devices - 1 - stretch

    moves = [[(i, to(2 * i + half)) for i in range(devices)] for half in (0, 1)]
    odd = jax.lax.axis_index("context") % 2 == 1
    # On an odd device the even stretch, which is a first one, is the one from the back.
    if back:
        first, second = jnp.where(odd, second, first), jnp.where(odd, first, second)
        moves = [[(there, here) for here, there in half] for half in moves]
    first, second = jax.lax.ppermute(first, "context", moves[0]), jax.lax.ppermute(second, "context", moves[1])
    if not back:
        first, second = jnp.where(odd, second, first), jnp.where(odd, first, second)
    return jnp.concatenate([first, second], axis=1)
