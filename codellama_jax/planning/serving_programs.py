"""The programs of the generation engine, lowered for a slice that is not there."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codellama_jax.config.model import Llama
from codellama_jax.errors import UserError
from codellama_jax.generation import decode, forward, rows, shards
from codellama_jax.kernels import paged_attention
from codellama_jax.planning.serving_config import ServingProgram
from codellama_jax.sharding import spec


def lower(llama: Llama, devices: list[Any], program: ServingProgram) -> tuple[Any, dict[str, Any]]:
    """Lowers a program for a mesh of as many of the devices as divide the model.

    Returns:
        The lowered program, and a dict with its mesh, the coordinates of its devices, and bytes per device: argument,
        parameter (of which an embedding that is only looked up), cache; token (a token's share of the cache), and
        blocks: for each group of heads the keys that the kernel reads at a time and their bytes.
    """
    mesh = shards.serving_mesh(llama, 0, devices)
    assert mesh is not None
    dtype = program.cache_dtype or llama.compute_dtype
    groups = shards.head_groups(llama, mesh, dtype)
    if groups is None:
        raise UserError(
            f"the kernel for TPUs cannot read {llama.kv_heads // mesh.size} key-value heads of size {llama.head_dim} in"
            f" {dtype} on each device: use another --cache_dtype"
        )

    def placed(tree: Any, cut: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, cut)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    weights = jax.eval_shape(functools.partial(_weights, llama, mesh, dtype == "int8"))
    weights = jax.tree_util.tree_map_with_path(lambda path, x: placed(x, spec(shards.DIMS[path[-1].key])), weights)
    pages, replicated = program.cache_tokens // program.page, PartitionSpec()
    cache = placed(jax.eval_shape(lambda: forward.new_cache(llama, pages, program.page, dtype, groups)), shards.CACHE)
    count = max(program.slots, 1)
    table = placed(jax.ShapeDtypeStruct((count, -(-program.context // program.page)), jnp.int32), replicated)
    if program.slots:
        state = placed(jax.eval_shape(lambda: rows.empty(count, llama.vocab_size)), replicated)
        function: Any = functools.partial(decode.decode, llama, llama.vocab_size, program.tokens)
        inputs: tuple[Any, ...] = (state, table, placed(jax.ShapeDtypeStruct((count,), jnp.int32), replicated))
        donated: tuple[int, ...] = (1, 2)
    else:
        chunk = jax.ShapeDtypeStruct((1, program.tokens), jnp.int32)
        valid = jax.ShapeDtypeStruct(chunk.shape, jnp.bool)
        rest = jax.ShapeDtypeStruct((program.tokens,), jnp.int32), jax.ShapeDtypeStruct((), jnp.bool)
        function = functools.partial(decode.prefill, llama, llama.vocab_size)
        inputs, donated = (*placed((chunk, chunk, valid), replicated), table, *placed(rest, replicated)), (1,)

    def planned(*arguments: Any) -> Any:
        return shards.program(function, mesh, weights)(*arguments)

    lowered = jax.jit(planned, donate_argnums=donated).lower(weights, cache, *inputs)
    token = device_bytes(cache) / ((pages + 1) * program.page)
    blocks = []
    for group in cache[0]:
        local = jax.ShapeDtypeStruct(group.sharding.shard_shape(group.shape), group.dtype)
        keys, _ = paged_attention.block_sizes(local.shape[2] // 2 * llama.heads // llama.kv_heads, local)
        blocks.append([keys, llama.layers * local.shape[2] * llama.head_dim * local.dtype.itemsize])
    return lowered, {
        "mesh": dict(mesh.shape),
        "coordinates": [[getattr(device, "slice_index", 0), *device.coords] for device in mesh.devices.flat],
        "parameter_bytes": device_bytes(weights),
        "embedding_bytes": device_bytes(weights["embedding"]) if "head" in weights else 0,
        "cache_bytes": device_bytes(cache),
        "argument_bytes": device_bytes((weights, cache, inputs)),
        "token_bytes": token,
        "blocks": blocks,
    }


def device_bytes(tree: Any) -> int:
    """The bytes of abstract arrays on each device."""
    shards_ = [(x.sharding.shard_shape(x.shape), x.dtype.itemsize) for x in jax.tree.leaves(tree)]
    return sum(width * math.prod(shape) for shape, width in shards_)


def _weights(llama: Llama, mesh: Mesh, int8_cache: bool) -> forward.Weights:
    """The weights of a model; only their shapes are used."""
    d, f, v = llama.dim, llama.ffn_dim, llama.vocab_size
    queries, keys = llama.heads * llama.head_dim, llama.kv_heads * llama.head_dim
    shapes: dict[str, tuple[int, ...]] = {"wq": (d, queries), "wk": (d, keys), "wv": (d, keys), "wo": (queries, d)}
    shapes |= {"w1": (d, f), "w3": (d, f), "w2": (f, d), "embedding": (v, d), "head": (d, v)}
    shapes |= {"bq": (queries,), "bk": (keys,), "bv": (keys,)}
    weights = forward.weights_of(lambda name, layer: jnp.zeros(shapes.get(name, (d,))), llama, mesh)
    if int8_cache:
        scale = jnp.zeros((1, 1, 2 * llama.kv_heads, llama.head_dim))
        weights["layers"] = [layer | {"kv_scale": scale} for layer in weights["layers"]]
    return weights
