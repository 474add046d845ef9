"""A model over the devices of a mesh: how weights and cache are cut, and the sums that join the parts.

    mesh = shards.serving_mesh(llama, tensor=8)
    weights = forward.weights_of(read, llama, mesh)
    engine = Engine(weights, llama, serving, vocabulary, mesh)

An engine's programs run on every device as they are (jax.shard_map), each with its part of the heads, of the
feed-forward width and of the vocabulary; sharding.SHARDING_RULES names the axes, as in training. The functions at the
end of this file join the parts. Outside such a program they change nothing. All results are equal on all devices, so
that every process of a pod can read them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codellama_jax.config import training
from codellama_jax.config.model import Llama
from codellama_jax.errors import UserError
from codellama_jax.kernels import paged_attention, row_products
from codellama_jax.sharding import make_mesh, spec

# The dims of the weights of forward.weights_of. "heads" stands for all columns of a joined projection.
DIMS: dict[str, tuple[str | None, ...]] = {
    "embedding": ("vocab", "dim"),
    "attention_norm": (None,),
    "qkv": ("dim", "heads"),
    "qkv_bias": (None, "heads"),
    "wo": ("heads", "dim"),
    "ffn_norm": (None,),
    "gate_up": ("dim", "ffn"),
    "w2": ("ffn", "dim"),
    "norm": (None,),
    "head": ("dim", "vocab"),
    "kv_scale": (None, None, "kv_heads", None),
    # the joined factors of adapters (adapters.py)
    "adapters": (None,),
    "qkv_a": ("dim", None),
    "qkv_b": (None, "heads"),
    "wo_a": ("heads", None),
    "wo_b": (None, "dim"),
    "gate_up_a": ("dim", None),
    "gate_up_b": (None, "ffn"),
    "w2_a": ("ffn", None),
    "w2_b": (None, "dim"),
}
CACHE = spec((None, None, "kv_heads", None))
_REPLICATED = PartitionSpec()


def tensor_sizes(llama: Llama) -> list[int]:
    """The sizes of the tensor axis that divide the model, in ascending order."""
    dims = llama.kv_heads, llama.ffn_dim, llama.vocab_size
    return [size for size in range(1, llama.kv_heads + 1) if all(dim % size == 0 for dim in dims)]


def serving_mesh(llama: Llama, tensor: int = 0, devices: Sequence[jax.Device] | None = None) -> Mesh | None:
    """The mesh of an engine: some devices along the tensor axis.

    Args:
        llama: the model.
        tensor: number of devices; 0: one on a CPU, elsewhere the most that divide the model.
        devices: the devices to use; None: those of this process.

    Returns:
        None for one device of a CPU or GPU.

    Raises:
        UserError: there are fewer devices, or their number does not divide the model's heads, width or vocabulary.
    """
    devices = jax.local_devices() if devices is None else devices
    platform = devices[0].platform
    fitting = [size for size in tensor_sizes(llama) if size <= len(devices)]
    tensor = tensor or (1 if platform == "cpu" else fitting[-1])
    sizes = ", ".join(map(str, fitting))
    if tensor > len(devices):
        raise UserError(f"--tensor={tensor} is more than the {len(devices)} devices of this machine: use {sizes}")
    if tensor not in fitting:
        raise UserError(
            f"--tensor={tensor} does not divide the {llama.kv_heads} key-value heads, the feed-forward width"
            f" {llama.ffn_dim} and the {llama.vocab_size} vocabulary rows of the model: use {sizes}"
        )
    if tensor == 1 and platform != "tpu":
        return None
    return make_mesh(training.Mesh(fsdp=1, tensor=tensor), devices=devices[:tensor])


def parts(mesh: Mesh | None) -> int:
    """The number of parts into which heads, width and vocabulary are cut."""
    return 1 if mesh is None else mesh.shape["tensor"]


def head_groups(llama: Llama, mesh: Mesh | None, dtype: str) -> tuple[int, ...] | None:
    """The groups of heads of the TPU kernel (kernels/paged_attention.py), or None for portable attention."""
    if mesh is None or mesh.devices.flat[0].platform != "tpu" or llama.attention == "blocked":
        return None
    groups = paged_attention.head_groups(llama.kv_heads // parts(mesh), dtype)
    return groups if llama.head_dim % paged_attention.HEAD_SIZE == 0 and groups else None


def join(matrices: Sequence[Any], count: int) -> Any:
    """Matrices of one input as one matrix: the columns of the first part of each, then those of the second part."""
    library = np if isinstance(matrices[0], np.ndarray) else jnp
    rows = len(matrices[0])
    return library.concatenate([x.reshape(rows, count, -1) for x in matrices], axis=2).reshape(rows, -1)


def placement(mesh: Mesh | None) -> Callable[[str, Any, Any], Any]:
    """A function (name of a weight, array, dtype) -> the array on the devices of the mesh, cut by DIMS.

    Without a mesh, matrices have the form for row_products.product.
    """
    if mesh is None:

        def place_here(name: str, x: Any, dtype: Any) -> Any:
            array = jnp.asarray(x, dtype)
            is_matrix = DIMS[name][0] in ("dim", "heads", "ffn") or name.endswith("_b")
            return row_products.matrix(array) if is_matrix else array

        return place_here

    def place(name: str, x: Any, dtype: Any) -> jax.Array:
        sharding = NamedSharding(mesh, spec(DIMS[name]))
        if isinstance(x, jax.Array):  # traced: the parameters of training
            return jax.lax.with_sharding_constraint(x.astype(dtype), sharding)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: np.asarray(x[index], dtype))

    return place


def zeros(mesh: Mesh | None, make: Callable[[], Any], cut: PartitionSpec = _REPLICATED) -> Any:
    """The arrays that `make` returns, made on the devices of the mesh."""
    return make() if mesh is None else jax.jit(make, out_shardings=NamedSharding(mesh, cut))()


def program(function: Callable, mesh: Mesh | None, weights: Any = None) -> Callable:
    """A function of an engine as a function of arrays on the mesh.

    Args:
        function: with `weights`, its first arguments are weights and cache, and it returns the cache, or a tuple whose
            first element is the cache. All other arguments and results are replicated.
        mesh: None: one device.
        weights: the weights, of which only the structure is used, or None.
    """
    if mesh is None:
        return function
    if weights is None:
        return jax.shard_map(function, mesh=mesh, in_specs=_REPLICATED, out_specs=_REPLICATED, check_vma=False)
    cut = jax.tree_util.tree_map_with_path(lambda path, _: spec(DIMS[path[-1].key]), weights)

    def separated(weights: Any, cache: Any, others: tuple) -> tuple[Any, tuple]:
        out = function(weights, cache, *others)
        return (out[0], out[1:]) if isinstance(out, tuple) else (out, ())

    mapped = jax.shard_map(
        separated, mesh=mesh, in_specs=(cut, CACHE, _REPLICATED), out_specs=(CACHE, _REPLICATED), check_vma=False
    )

    def joined(weights: Any, cache: Any, *others: Any) -> Any:
        cache, rest = mapped(weights, cache, others)
        return (cache, *rest) if rest else cache

    return joined


# --- in a program


def count() -> int:
    """The number of devices over which the heads are cut."""
    return math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in _axes("heads"))


def _axes(dim: str) -> tuple[str, ...]:
    """The axes along which a dim is cut on this device."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = spec((dim,))[0]
    names = (axes,) if isinstance(axes, str) else axes
    return tuple(axis for axis in names if axis in mesh.manual_axes and mesh.shape[axis] > 1)


def total(x: jax.Array) -> jax.Array:
    """The sum of the products of all parts."""
    return jax.lax.psum(x, axes) if (axes := _axes("heads")) else x


def by_rows(function: Callable[..., jax.Array], *arrays: Any) -> jax.Array:
    """A function of arrays [S, ...] whose rows are independent; each device computes some of the rows.

    Otherwise every device would sort the logits of all rows.
    """
    rows, parts_ = len(jax.tree.leaves(arrays)[0]), count()
    if parts_ == 1 or rows % parts_:
        return function(*arrays)
    axes, share = _axes("heads"), rows // parts_
    start = jax.lax.axis_index(axes) * share
    own = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, share), arrays)
    return jax.lax.all_gather(function(*own), axes, axis=0, tiled=True)


def whole_rows(name: str, weight: jax.Array) -> jax.Array:
    """A weight with its complete width of the model, which training cuts over fsdp and context."""
    axes = _axes("dim") if "dim" in DIMS[name] else ()
    return jax.lax.all_gather(weight, axes, axis=DIMS[name].index("dim"), tiled=True) if axes else weight


def look_up(embedding: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of the embedding."""
    if axes := _axes("vocab"):
        ids = ids - jax.lax.axis_index(axes) * len(embedding)
        own = (ids >= 0) & (ids < len(embedding))
        rows = jnp.where(own[..., None], embedding[jnp.where(own, ids, 0)], 0)
        embedded = jax.lax.psum(rows, axes)
    else:
        embedded = embedding[ids]
    axes = _axes("dim")
    return jax.lax.all_gather(embedded, axes, axis=embedded.ndim - 1, tiled=True) if axes else embedded


def all_columns(x: jax.Array) -> jax.Array:
    """Logits of the whole vocabulary from those of this device's part."""
    return jax.lax.all_gather(x, axes, axis=x.ndim - 1, tiled=True) if (axes := _axes("vocab")) else x
