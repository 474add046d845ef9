"""The mesh, and the one table from logical dims to mesh axes.

A mesh axis ("axis") is a direction of the device grid; a dim is a direction of an array. Model code names dims only.
Nothing here relies on Flax's logical rules: those are dropped in silence when a name is misspelt or no mesh is set, so
names are resolved here, and an unknown one raises.
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

# Parameters are cut over `fsdp` and `context` along the model width, which every matrix has, and gathered layer by
# layer under the scan; over `tensor` along heads, feed-forward width and vocabulary, so that the two products of
# attention and of the feed-forward need one sum between them. Activations are cut over both batch axes and, along the
# sequence, `context`.
TABLE: dict[str, tuple[str, ...] | str | None] = {
    # activations
    "batch": ("data", "fsdp"),
    "sequence": "context",
    # parameters
    "layers": None,  # the scan's dim: every device needs a part of every layer
    "dim": ("fsdp", "context"),
    "head_dim": None,
    # both
    "heads": "tensor",
    "kv_heads": "tensor",
    "ffn": "tensor",
    "vocab": "tensor",
}


def axis_sizes(shape: Mesh, devices: int, slices: int, windows: int | None) -> tuple[int, ...]:
    """Devices along each of AXES.

    What is left open needs no thought: data is the number of slices, since between them there is only the data-centre
    network; fsdp is all the rest, which costs the least memory; but if the devices are more than the windows, `context`
    takes what is left over.

    Args:
        shape: what is asked for.
        devices: how many there are.
        slices: of so many slices.
        windows: that pass through the model at once; None if unknown.

    Raises:
        UserError: the sizes do not multiply to the number of devices, or the slices do not divide `data`.
    """
    data, context = shape.data, max(shape.context, 1)
    rest, left = divmod(devices, max(data, 1) * max(shape.fsdp, 1) * context * shape.tensor)
    fsdp = shape.fsdp
    if left == 0 and data == 0 and fsdp != -1:
        data = rest
    elif left == 0 and fsdp == -1:
        data = data or slices
        fsdp = devices // (data * context * shape.tensor)
        if shape.context == 0 and windows:
            rows = math.gcd(data * fsdp, windows)
            if rows % data == 0:
                context, fsdp = data * fsdp // rows, rows // data
    sizes = (data, fsdp, context, shape.tensor)
    if math.prod(sizes) != devices:
        asked = (shape.data, shape.fsdp, shape.context, shape.tensor)
        written = ", ".join(f"Mesh.{axis}={size}" for axis, size in zip(AXES, asked, strict=True) if size > 0)
        raise UserError(f"{written} do not make {devices} devices: leave one of them out, or let their product do so")
    if data % slices:
        raise UserError(f"Mesh.data={data} must be a multiple of the {slices} slices: only data may cross between them")
    return sizes


def make_mesh(
    shape: Mesh, windows: int | None = None, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """A mesh of all devices (or those given) with the four axes of AXES, laid out along the interconnect.

    Args:
        shape: sizes of the axes; what it leaves open is chosen for `windows` (axis_sizes).
        windows: windows of a micro-batch.
        devices: of one slice, or of several.

    Raises:
        UserError: as axis_sizes.
    """
    devices = list(jax.devices() if devices is None else devices)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    sizes = axis_sizes(shape, len(devices), slices, windows)
    # as jax.make_mesh, which would refuse an axis of half a direction of the interconnect: data 2 on 4x4x8
    if slices > 1:
        within = (sizes[0] // slices, *sizes[1:])
        between = (slices, 1, 1, 1)
        grid = mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
    else:
        grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
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


def batch_parts(mesh: jax.sharding.Mesh) -> int:
    """Parts that the windows of a batch are cut into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def _rows_of_processes(mesh: jax.sharding.Mesh) -> dict[int, tuple[int, ...]]:
    """Which of the data x fsdp parts of a batch each process has a part of, in the order of their first."""
    grid = mesh.devices.reshape(batch_parts(mesh), -1)
    rows: dict[int, list[int]] = {}
    for row, devices in enumerate(grid):
        for process in {device.process_index for device in devices}:
            rows.setdefault(process, []).append(row)
    return {process: tuple(mine) for process, mine in rows.items()}


@functools.cache
def _rows_of_this_process(mesh: jax.sharding.Mesh) -> tuple[int, ...]:
    """_rows_of_processes goes through all devices: not for every batch."""
    return _rows_of_processes(mesh)[jax.process_index()]


def host_group(mesh: jax.sharding.Mesh) -> tuple[int, int]:
    """This host's group and how many there are. The hosts of a group have parts of the same windows, as along an axis
    that crosses hosts, so they make the same rows of a batch; each group makes an equal share of it.

    Raises:
        UserError: hosts share some of their windows, but not all.
    """
    rows = _rows_of_processes(mesh)
    groups = list(dict.fromkeys(rows.values()))
    if sum(map(len, groups)) != batch_parts(mesh) or len(set(map(len, groups))) > 1:
        across = mesh.shape["context"] * mesh.shape["tensor"]
        raise UserError(
            f"Mesh.context x Mesh.tensor = {across} makes hosts share a part of their windows: bind them so that hosts"
            " share all their windows or none"
        )
    return groups.index(rows[jax.process_index()]), len(groups)


def put_batch(mesh: jax.sharding.Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """This host group's rows of each [rows, length] array as the global array, cut over batch and sequence."""
    rows = _rows_of_this_process(mesh)
    sharding = NamedSharding(mesh, spec(("batch", "sequence")))

    def put(local: np.ndarray) -> jax.Array:
        size = len(local) // len(rows)  # windows of a part

        def shard(index: Any) -> np.ndarray:
            start = rows.index((index[0].start or 0) // size) * size
            return local[start : start + size, index[1]]

        return jax.make_array_from_callback((batch_parts(mesh) * size, local.shape[1]), sharding, shard)

    return {name: put(local) for name, local in batch.items()}


def put_flag(mesh: jax.sharding.Mesh, flag: bool) -> jax.Array:
    """What this host says, as int32 [devices], each device with its host's: the largest is what any of them says."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    return jax.make_array_from_callback((mesh.size,), sharding, lambda _: np.full(1, flag, np.int32))


def check_divides(mesh: jax.sharding.Mesh, batch_size: int, sequence_length: int, llama: Llama) -> None:
    """Raises UserError where the mesh does not divide what it is to cut."""
    size, rows = mesh.shape, batch_parts(mesh)
    for what, whole, axis, parts in (
        ("Stage.batch_tokens / Stage.sequence_length / Stage.micro_batches", batch_size, "data x fsdp", rows),
        ("Stage.sequence_length", sequence_length, "context", size["context"]),
        ("Llama.dim", llama.dim, "fsdp x context", size["fsdp"] * size["context"]),
        ("Llama.kv_heads", llama.kv_heads, "tensor", size["tensor"]),
        ("Llama.ffn_dim", llama.ffn_dim, "tensor", size["tensor"]),
        ("Llama.vocab_size", llama.vocab_size, "tensor", size["tensor"]),
    ):
        if whole % parts:
            raise UserError(f"{what} = {whole} cannot be cut into {parts} (mesh axis {axis}): change Mesh or {what}")
