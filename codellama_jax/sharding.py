"""The device mesh, and the table that maps logical dims to mesh axes.

"Axis" always means an axis of the mesh, "dim" a dimension of an array. Model code names dims only. Flax's logical axis
rules are not used: they silently ignore a misspelt name or a missing mesh. Here an unknown name raises an error.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from codellama_jax.config.model import Llama
from codellama_jax.config.training import Mesh
from codellama_jax.errors import UserError

AXES = ("data", "fsdp", "context", "tensor")

# Parameters are sharded over `fsdp` and `context` along the model width, which every matrix has, and all-gathered layer
# by layer in the scan. Over `tensor` they are sharded along heads, feed-forward width and vocabulary, so that the two
# products of attention, and those of the feed-forward layer, need a single all-reduce. Activations are sharded over
# `data` and `fsdp` along the batch and over `context` along the sequence.
SHARDING_RULES: dict[str, tuple[str, ...] | str | None] = {
    # activations
    "batch": ("data", "fsdp"),
    "sequence": "context",
    # parameters
    "layers": None,  # the dim of the scan: every device needs its shard of every layer
    "dim": ("fsdp", "context"),
    "head_dim": None,
    "rank": None,  # of adapters (model/lora.py): the factors are small, and sharded along their other dims
    # both
    "heads": "tensor",
    "kv_heads": "tensor",
    "ffn": "tensor",
    "vocab": "tensor",
}


def axis_sizes(shape: Mesh, devices: int, slices: int, windows: int | None) -> tuple[int, ...]:
    """The number of devices along each of AXES.

    Sizes that are not set are chosen as follows. `data` is the number of slices, because only the data-centre network
    connects slices. `fsdp` takes all other devices, which needs the least memory. If there are more devices than
    windows, `context` takes the surplus.

    Args:
        shape: the sizes that are set.
        devices: number of devices, over all slices.
        slices: number of slices.
        windows: number of windows in a micro-batch; None if unknown.

    Raises:
        UserError: the product of the sizes is not the number of devices, or `data` is not a multiple of the slices.
    """
    data, context = shape.data, max(shape.context, 1)
    quotient, remainder = divmod(devices, max(data, 1) * max(shape.fsdp, 1) * context * shape.tensor)
    fsdp = shape.fsdp
    if remainder == 0 and data == 0 and fsdp != -1:
        data = quotient
    elif remainder == 0 and fsdp == -1:
        data = data or slices
        fsdp = devices // (data * context * shape.tensor)
        if shape.context == 0 and windows:
            rows = math.gcd(data * fsdp, windows)
            if rows % data == 0:
                context, fsdp = data * fsdp // rows, rows // data
    sizes = (data, fsdp, context, shape.tensor)
    if math.prod(sizes) != devices:
        requested = (shape.data, shape.fsdp, shape.context, shape.tensor)
        bindings = ", ".join(f"Mesh.{axis}={size}" for axis, size in zip(AXES, requested, strict=True) if size > 0)
        raise UserError(f"{bindings} do not multiply to {devices} devices: correct them, or leave one of them out")
    if data % slices:
        raise UserError(f"Mesh.data={data} must be a multiple of the {slices} slices: no other axis may span slices")
    return sizes


def make_mesh(
    shape: Mesh, windows: int | None = None, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """Makes a mesh with the axes AXES, with devices in an order that follows the interconnect.

    Args:
        shape: sizes of the axes; axis_sizes chooses those that are not set.
        windows: number of windows in a micro-batch; None if unknown.
        devices: devices of one or several slices; None: all devices.

    Raises:
        UserError: see axis_sizes.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = axis_sizes(shape, len(devices), slices, windows)
    # jax.make_mesh rejects axes that split a physical axis of the interconnect, such as data=2 on 4x4x8
    if slices > 1:
        within = (sizes[0] // slices, *sizes[1:])
        between = (slices, 1, 1, 1)
        grid = mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    else:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 4)


def spec(dims: tuple[str | None, ...]) -> PartitionSpec:
    """The PartitionSpec of an array with these logical dims; None stands for a dim that is never sharded.

    Raises:
        KeyError: a name is not in SHARDING_RULES.
    """
    return PartitionSpec(*(None if dim is None else SHARDING_RULES[dim] for dim in dims))


def constrain(x: jax.Array, dims: tuple[str | None, ...]) -> jax.Array:
    """Constrains the sharding of x on the mesh of jax.set_mesh by SHARDING_RULES (the model's `constrain` argument)."""
    return jax.lax.with_sharding_constraint(x, spec(dims))


def tree_shardings(mesh: jax.sharding.Mesh, dims: Any) -> Any:
    """NamedShardings for a tree whose leaves are tuples of dim names."""
    return jax.tree.map(lambda d: NamedSharding(mesh, spec(d)), dims, is_leaf=lambda d: isinstance(d, tuple))


def batch_parts(mesh: jax.sharding.Mesh) -> int:
    """The number of shards of a batch along its windows (data x fsdp)."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _shards_by_process(mesh: jax.sharding.Mesh) -> dict[int, tuple[int, ...]]:
    """Returns for each process the indices of the batch shards that its devices hold, in ascending order. Processes are
    in the order of their first shard."""
    grid = mesh.devices.reshape(batch_parts(mesh), -1)
    shards: dict[int, list[int]] = {}
    for index, devices in enumerate(grid):
        for process in {device.process_index for device in devices}:
            shards.setdefault(process, []).append(index)
    return {process: tuple(indices) for process, indices in shards.items()}


@functools.cache
def _shards_of_this_process(mesh: jax.sharding.Mesh) -> tuple[int, ...]:
    """The batch shards of this process. Cached, because _shards_by_process iterates over all devices, which is too slow
    to do for every batch."""
    return _shards_by_process(mesh)[jax.process_index()]


def host_group(mesh: jax.sharding.Mesh) -> tuple[int, int]:
    """The index of this host's group and the number of groups.

    Hosts that hold parts of the same windows, because a context or tensor axis spans them, form a group. All hosts of a
    group load the same rows of a batch; each group loads an equal share of the batch.

    Raises:
        UserError: two hosts share some of their windows, but not all.
    """
    shards = _shards_by_process(mesh)
    groups = list(dict.fromkeys(shards.values()))
    if sum(map(len, groups)) != batch_parts(mesh) or len(set(map(len, groups))) > 1:
        size = mesh.shape["context"] * mesh.shape["tensor"]
        raise UserError(
            f"Mesh.context x Mesh.tensor = {size} makes hosts share only some of their windows: bind them so that hosts"
            " share all their windows or none"
        )
    return groups.index(shards[jax.process_index()]), len(groups)


def put_batch(mesh: jax.sharding.Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes global arrays, sharded over batch and sequence, from the [rows, length] arrays of this host's group."""
    shards = _shards_of_this_process(mesh)
    sharding = NamedSharding(mesh, spec(("batch", "sequence")))

    def put(local: np.ndarray) -> jax.Array:
        size = len(local) // len(shards)  # windows per shard

        def shard(index: Any) -> np.ndarray:
            start = shards.index((index[0].start or 0) // size) * size
            return local[start : start + size, index[1]]

        return jax.make_array_from_callback((batch_parts(mesh) * size, local.shape[1]), sharding, shard)

    return {name: put(local) for name, local in batch.items()}


def put_copies(mesh: jax.sharding.Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes global arrays, sharded over batch and sequence, from arrays of which every host has a complete copy."""
    sharding = NamedSharding(mesh, spec(("batch", "sequence")))
    return {name: jax.make_array_from_callback(x.shape, sharding, x.__getitem__) for name, x in batch.items()}


def put_flag(mesh: jax.sharding.Mesh, flag: bool) -> jax.Array:
    """Makes an int32 [devices] array that holds on each device the flag of its host; its maximum is 1 if any host's
    flag is set."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.make_array_from_callback((mesh.size,), sharding, lambda _: np.full(1, flag, np.int32))


def check_divides(mesh: jax.sharding.Mesh, batch_size: int, sequence_length: int, llama: Llama) -> None:
    """Raises UserError if the mesh does not evenly divide the batch, the sequence or the model."""
    size = mesh.shape
    for name, length, axis, shards in (
        (
            "Stage.batch_tokens / Stage.sequence_length / Stage.micro_batches",
            batch_size,
            "data x fsdp",
            batch_parts(mesh),
        ),
        ("Stage.sequence_length", sequence_length, "context", size["context"]),
        ("Llama.dim", llama.dim, "fsdp x context", size["fsdp"] * size["context"]),
        ("Llama.kv_heads", llama.kv_heads, "tensor", size["tensor"]),
        ("Llama.ffn_dim", llama.ffn_dim, "tensor", size["tensor"]),
        ("Llama.vocab_size", llama.vocab_size, "tensor", size["tensor"]),
    ):
        if length % shards:
            raise UserError(f"{name} = {length} is not divisible by {shards} (mesh axis {axis}): change Mesh or {name}")
