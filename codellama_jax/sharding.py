"""The mesh, and the one table from logical dims to mesh axes.

A mesh axis ("axis") is a direction of the device grid; a dim is a direction of an array. Model code names dims only.
Nothing here relies on Flax's logical rules: those are dropped in silence when a name is misspelt or no mesh is set, so
names are resolved here, and an unknown one raises.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from codellama_jax.errors import UserError
from codellama_jax.training.config import Mesh

AXES = ("data", "fsdp", "context", "tensor")

# Parameters are cut over `fsdp` along the model width, which every matrix has, and gathered layer by layer under the
# scan; over `tensor` along heads, feed-forward width and vocabulary, so that the two products of attention and of the
# feed-forward need one sum between them. Activations are cut over both batch axes and, along the sequence, `context`.
TABLE: dict[str, tuple[str, ...] | str | None] = {
    # activations
    "batch": ("data", "fsdp"),
    "sequence": "context",
    # parameters
    "layers": None,  # the scan's dim: every device needs a part of every layer
    "dim": "fsdp",
    "head_dim": None,
    # both
    "heads": "tensor",
    "kv_heads": "tensor",
    "ffn": "tensor",
    "vocab": "tensor",
}


def make_mesh(shape: Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A mesh of all devices (or those given) with the four axes of AXES.

    Raises:
        UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [shape.data, shape.fsdp, shape.context, shape.tensor]
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices) or min(sizes) < 1:
        written = ", ".join(f"Mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise UserError(f"{written} do not make {len(devices)} devices: their product must, and one of them may be -1")
    # as jax.make_mesh, which would refuse an axis of half a direction of the interconnect: data 2 on 4x4x8
    grid = mesh_utils.create_device_mesh(tuple(sizes), list(devices), allow_split_physical_axes=True)
    return jax.sharding.Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 4)


def spec(dims: tuple[str | None, ...]) -> PartitionSpec:
    """The PartitionSpec of an array with these logical dims; None is a dim that is never cut.

    Raises:
        KeyError: a name that the table does not have.
    """
    return PartitionSpec(*(None if dim is None else TABLE[dim] for dim in dims))


def constrain(x: jax.Array, dims: tuple[str | None, ...]) -> jax.Array:
    """Lays x out over the mesh of jax.set_mesh as the table says (the model's `constrain` argument)."""
    return jax.lax.with_sharding_constraint(x, spec(dims))


def tree_shardings(mesh: jax.sharding.Mesh, dims: Any) -> Any:
    """NamedShardings for a tree whose leaves are tuples of dim names."""
    return jax.tree.map(lambda d: NamedSharding(mesh, spec(d)), dims, is_leaf=lambda d: isinstance(d, tuple))


def put_batch(mesh: jax.sharding.Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This host's rows of each [rows, length] array as the global array, cut over batch and sequence."""
    sharding = NamedSharding(mesh, spec(("batch", "sequence")))
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def check_divides(mesh: jax.sharding.Mesh, batch_size: int, sequence_length: int, kv_heads: int) -> None:
    """Raises UserError where the mesh does not divide what it is to cut."""
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    for what, size, axis, parts in (
        ("Stage.batch_tokens / Stage.sequence_length", batch_size, "data x fsdp", rows),
        ("Stage.sequence_length", sequence_length, "context", mesh.shape["context"]),
        ("Llama.kv_heads", kv_heads, "tensor", mesh.shape["tensor"]),
    ):
        if size % parts:
            raise UserError(f"{what} = {size} cannot be cut into {parts} (mesh axis {axis}): change Mesh or {what}")
    group = mesh.shape["context"] * mesh.shape["tensor"]
    hosts = len({device.process_index for device in mesh.devices.flat})
    if hosts > 1 and mesh.size // hosts % group:
        # the devices of a group share rows of the batch, and each host makes its own rows
        raise UserError(f"Mesh.context x Mesh.tensor = {group} must divide the {mesh.size // hosts} devices of a host")
