"""Specifications of TPU generations, and the names of slices.

    topology("v5p:4x4x4")       a generation and the shape of a slice in chips
    topology("v5p-128")         the cloud's name of the same slice

Peak FLOP/s, memory bandwidth and interconnect are from Google's pages on each generation, under
docs.cloud.google.com/tpu/docs: v4, v5e, v5p, v6e and tpu7x. The pages give a chip's interconnect bandwidth in both
directions together (v4: in one direction), so link_bandwidth is half of a link's share (v4: all of it). hbm_bytes is
the memory that the compiler makes available to a program: less than the published size, because the system reserves
some. It was read from the compiler's error message for a program that is too large (libtpu 0.0.42.1). Clocks follow
from the peak and the FLOPs per cycle of the matrix units.
"""

import dataclasses
import difflib
import math
import re
from typing import Any

from codellama_jax.errors import EXIT_USAGE, UserError

GiB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU generation.

    Attributes:
        name: its name in JAX topologies.
        cloud: the prefix of slice names in Google Cloud, and the number of units (TensorCores or chips) that a chip
            adds to the number in such a name.
        dims: number of dimensions of the interconnect.
        devices: JAX devices per chip.
        cores: cores per device, which share a kernel's heads.
        host_chips: chips per host, for the machine types used for training.
        runtime_version: software version that gcloud installs on the hosts; None: not available in the Cloud TPU API.
        gke: value of the node label cloud.google.com/gke-tpu-accelerator, and the machine type of a host.
        flops: peak bfloat16 FLOP/s of a chip.
        eight_bit_speed: peak of products of eight bits (int8; on tpu7x float8), relative to `flops`.
        hbm_bytes: memory per device that a program can use.
        hbm_bandwidth: memory bandwidth of a chip, bytes/s.
        link_bandwidth: bytes/s that one link sends; a chip has two links in each dimension of the interconnect.
        host_bandwidth: bytes/s between a chip and its host; not published (assumption: PCIe 4.0 x8, and x16 for
            v6e and tpu7x).
        network_bandwidth: bytes/s that a chip sends over the data-centre network, between slices. The pages of v5e and
            v6e give 6.4 and 25.6 Tbit/s for 256 chips. Assumptions: v4 and v5p are between these, tpu7x is like v6e.
        clock: cycles/s.
        options: arguments of JAX's topology description that are the same for all shapes.
        published_mfu: lowest and highest MFU, with causal attention, of published runs of dense models of 7B to 70B on
            the generation; None: no such run is known.
    """

    name: str
    cloud: tuple[str, int]
    dims: int
    devices: int
    host_chips: int
    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    clock: float
    cores: int = 1
    eight_bit_speed: float = 2.0
    options: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)
    published_mfu: tuple[float, float] | None = None
    host_bandwidth: float = 16e9
    network_bandwidth: float = 6.25e9
    runtime_version: str | None = None
    gke: tuple[str, str] = ("", "")


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            cloud=("v4", 2),
            dims=3,
            devices=1,
            host_chips=4,
            flops=275e12,
            eight_bit_speed=1.0,
            hbm_bytes=int(30.75 * GiB),  # of 32
            hbm_bandwidth=1228e9,
            link_bandwidth=50e9,  # 2,400 Gb/s over six links
            clock=1.05e9,  # 262,144 FLOPs per cycle: two cores of four 128 x 128 units
            cores=2,
            options={"chip_config_name": "megacore"},  # one device per chip, as on the cloud's machines
            runtime_version="tpu-ubuntu2204-base",
            gke=("tpu-v4-podslice", "ct4p-hightpu-4t"),
        ),
        Chip(
            name="v5e",
            cloud=("v5litepod", 1),
            dims=2,
            devices=1,
            host_chips=4,
            flops=197e12,
            hbm_bytes=int(15.75 * GiB),  # of 16
            hbm_bandwidth=819e9,
            link_bandwidth=50e9,  # 400 GB/s both ways over four links
            network_bandwidth=3.125e9,
            clock=1.5e9,  # 131,072 FLOPs per cycle: four 128 x 128 units
            runtime_version="v2-alpha-tpuv5-lite",
            gke=("tpu-v5-lite-podslice", "ct5lp-hightpu-4t"),
        ),
        Chip(
            name="v5p",
            cloud=("v5p", 2),
            dims=3,
            devices=1,
            host_chips=4,
            flops=459e12,
            hbm_bytes=int(95.74 * GiB),  # 95 GB on the page
            hbm_bandwidth=2765e9,
            link_bandwidth=100e9,  # 1,200 GB/s both ways over six links
            clock=1.75e9,  # 262,144 FLOPs per cycle: two cores of four 128 x 128 units
            cores=2,
            published_mfu=(0.65, 0.70),
            runtime_version="v2-alpha-tpuv5",
            gke=("tpu-v5p-slice", "ct5p-hightpu-4t"),
        ),
        Chip(
            name="v6e",
            cloud=("v6e", 1),
            dims=2,
            devices=1,
            host_chips=4,
            flops=918e12,
            hbm_bytes=int(31.25 * GiB),  # of 32
            hbm_bandwidth=1638e9,
            link_bandwidth=100e9,  # 800 GB/s both ways over four links
            clock=1.75e9,  # 524,288 FLOPs per cycle
            published_mfu=(0.40, 0.47),
            runtime_version="v2-alpha-tpuv6e",
            gke=("tpu-v6e-slice", "ct6e-standard-4t"),
            host_bandwidth=32e9,
            network_bandwidth=12.5e9,
        ),
        Chip(
            name="tpu7x",
            cloud=("tpu7x", 2),
            dims=3,
            devices=2,
            host_chips=4,
            flops=2307e12,
            hbm_bytes=int(94.75 * GiB),  # of 96, half of the chip's
            hbm_bandwidth=7380e9,
            link_bandwidth=100e9,  # 1,200 GB/s both ways over six links
            clock=2.2e9,  # if a core has 524,288 FLOPs per cycle like v6e; not published (assumption)
            published_mfu=(0.52, 0.52),
            gke=("tpu7x", "tpu7x-standard-4t"),
            host_bandwidth=32e9,
            network_bandwidth=12.5e9,
        ),
    )
}
MAX_CHIPS = {"v4": 4096, "v5e": 256, "v5p": 6144, "v6e": 256, "tpu7x": 9216}  # of a slice, from the same pages


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of chips, or several equal slices connected by the data-centre network."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def slice_name(self) -> str:
        """The name of a slice in JAX: "v5p:4x4x4"."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def name(self) -> str:
        return self.slice_name if self.slices == 1 else f"{self.slices} x {self.slice_name}"

    @property
    def cloud_name(self) -> str:
        """The name of a slice in gcloud: "v5p-128"."""
        return f"{self.chip.cloud[0]}-{self.chips // self.slices * self.chip.cloud[1]}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        return -(-self.chips // self.chip.host_chips)

    @property
    def has_default_shape(self) -> bool:
        """Whether this is the cloud's default shape for slices of this size."""
        return _default_shape(self.chip, self.chips // self.slices * self.chip.cloud[1]) == self.shape

    @property
    def wrap(self) -> tuple[bool, bool, bool]:
        """For each dimension, whether the last chip is linked to the first: wrap-around links, which form rings.

        Three-dimensional slices have them if they consist of cubes of 4x4x4, which optical switches connect;
        two-dimensional slices have them along a complete side of a pod, 16 chips. They change the program: without
        rings the compiler implements all-gathers as all-reduces, which send twice as much.
        """
        if self.chip.dims == 3:
            return (all(length % 4 == 0 for length in self.shape),) * 3
        return self.shape[0] == 16, self.shape[1] == 16, False

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of JAX's topology description other than the name. JAX's default is a slice without rings."""
        return {**self.chip.options, **({"wrap": self.wrap} if any(self.wrap) else {})}

    @property
    def flops(self) -> float:
        """Peak FLOP/s of a device."""
        return self.chip.flops / self.chip.devices

    @property
    def hbm_bandwidth(self) -> float:
        """Bytes/s of a device's memory."""
        return self.chip.hbm_bandwidth / self.chip.devices

    @property
    def host_bandwidth(self) -> float:
        """Bytes/s between a device and its host."""
        return self.chip.host_bandwidth / self.chip.devices

    def send_bandwidth(self, coordinates: list[list[int]]) -> float:
        """Bytes/s that a device can send to the others of a group, given as [slice, *chip coordinates] of each device.

        Between slices it is the bandwidth of the network. Within a slice, it is the bandwidth of the links in all
        dimensions along which the group extends: two links per dimension, or one if the slice is two chips long there.
        The devices of a chip share its links.
        """
        slices, *extents = [len(set(values)) for values in zip(*coordinates, strict=True)]
        if slices > 1:
            return self.chip.network_bandwidth / self.chip.devices
        used = [length for length, extent in zip(self.shape, extents, strict=False) if extent > 1] or list(self.shape)
        links = sum(0 if length == 1 else 1 if length == 2 else 2 for length in used)
        return max(links, 1) * self.chip.link_bandwidth / self.chip.devices

    def larger(self) -> "Topology | None":
        """The slice with twice the chips, doubled along its shortest dimension; None if it would be too large."""
        shortest = self.shape.index(min(self.shape))
        shape = sorted(length * (2 if i == shortest else 1) for i, length in enumerate(self.shape))
        larger = Topology(self.chip, tuple(shape), self.slices)
        return larger if larger.chips // self.slices <= MAX_CHIPS[self.chip.name] else None


def topology(name: str, slices: int = 1) -> Topology:
    """Parses the name of a slice, as written in JAX or in Google Cloud. `slices` is the number of such slices.

    Raises:
        UserError: there is no such slice, or `slices` is less than 1.
    """
    examples = "use GENERATION:SHAPE such as v5p:4x4x4 or v6e:16x16, or a cloud name such as v5p-128"
    match = re.fullmatch(r"([a-z]+\d+[a-z]*)(?::(\d+(?:x\d+)*)|-(\d+))", name.strip().lower())
    if not match:
        raise UserError(f"--topology={name} is not a TPU slice: {examples}", EXIT_USAGE)
    generation, dims, count = match.groups()
    names = {chip.cloud[0]: chip for chip in CHIPS.values()} | CHIPS
    if generation not in names:
        near = difflib.get_close_matches(generation, names, 1)
        hint = f"did you mean {near[0]}{name.strip().lower().removeprefix(generation)}? " if near else ""
        raise UserError(f"--topology={name}: {hint}Generations are {', '.join(CHIPS)}; {examples}", EXIT_USAGE)
    chip = names[generation]
    shape = tuple(int(length) for length in dims.split("x")) if dims else _default_shape(chip, int(count))
    if shape is None:
        unit = "cores, two per chip" if chip.cloud[1] == 2 else "chips"
        example = Topology(chip, _default_shape(chip, 16) or ()).name
        raise UserError(
            f"--topology={name} counts {unit}, and a slice of that size has no default shape: give the shape, as in"
            f" {example}, or use {_nearest_names(chip, int(count))}",
            EXIT_USAGE,
        )
    if len(shape) != chip.dims or min(shape) < 1:
        example = "4x4x4" if chip.dims == 3 else "16x16"
        raise UserError(
            f"--topology={name}: {chip.name} has {chip.dims} dimensions of at least 1, as in {example}", EXIT_USAGE
        )
    slice_ = Topology(chip, shape, slices)
    if slices < 1:
        raise UserError(f"--slices={slices} must be at least 1", EXIT_USAGE)
    if math.prod(shape) > MAX_CHIPS[chip.name]:
        raise UserError(
            f"--topology={name} has {math.prod(shape)} chips; the largest slice of {chip.name} has"
            f" {MAX_CHIPS[chip.name]}",
            EXIT_USAGE,
        )
    return slice_


def _default_shape(chip: Chip, count: int) -> tuple[int, ...] | None:
    """The cloud's default shape of a slice with this count in its name: for powers of two, the shape that is closest to
    a cube or a square."""
    chips, remainder = divmod(count, chip.cloud[1])
    power = chips.bit_length() - 1
    if remainder or chips < 1 or chips != 2**power or (chip.dims == 3 and power < 2):
        return None
    if chip.dims == 3 and power == 2:
        return (2, 2, 1)
    short, longer = divmod(power, chip.dims)
    return tuple(2 ** (short + (i >= chip.dims - longer)) for i in range(chip.dims))


def _nearest_names(chip: Chip, count: int) -> str:
    """The cloud's names of the next smaller and larger slices that have a default shape."""
    counts = [2**power * chip.cloud[1] for power in range(MAX_CHIPS[chip.name].bit_length())]
    valid = [number for number in counts if _default_shape(chip, number)]
    below = [number for number in valid if number < count][-1:]
    above = [number for number in valid if number > count][:1]
    return " or ".join(f"{chip.cloud[0]}-{number}" for number in below + above)
