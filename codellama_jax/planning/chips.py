"""TPU generations in numbers, and the names of slices.

    topology("v5p:4x4x4")       a generation and the shape of a slice in chips
    topology("v5p-128")         the cloud's name of the same slice

Peak FLOP/s, memory bandwidth and interconnect are those of Google's pages on each generation, under
docs.cloud.google.com/tpu/docs: v4, v5e, v5p, v6e and tpu7x. Their interconnect is both directions together, but v4's,
which is one: a link sends half of its share. Memory is what the compiler lets a program have, less than the page says,
since the system keeps some: it was asked with a program too large for each (libtpu 0.0.42.1). Clocks are what the peak
implies for the products a cycle of the generation's matrix units.
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
    """One generation.

    Attributes:
        name: as JAX names it in a topology.
        cloud: what the cloud's name begins with, and what it counts for each chip (TensorCores or chips).
        dims: directions of the interconnect.
        devices: devices of a chip, as JAX sees them.
        host_chips: chips of a host (of the machine types that training uses).
        runtime_version: what gcloud installs on its hosts; None: the Cloud TPU API has no such chip.
        gke: its name in a node's label cloud.google.com/gke-tpu-accelerator, and the machine type of a host.
        flops: bfloat16 FLOP/s of a chip at its peak.
        hbm_bytes: memory of a device that a program can have.
        hbm_bandwidth: bytes/s of a chip's memory.
        link_bandwidth: bytes/s that one link sends; a chip has two links in each direction of the interconnect.
        host_bandwidth: bytes/s between a chip and its host; no page says (assumption: eight lanes of PCIe 4, sixteen on
            the newer two).
        network_bandwidth: bytes/s that a chip sends over the data-centre network, between slices: 6.4 and 25.6 Tbit/s
            for 256 chips of v5e and v6e on their pages, for the others those of their nearest (assumption).
        clock: cycles/s.
        options: what JAX's topology description needs beside the name, whatever the shape.
        published_mfu: lowest and highest MFU, attention counted causal, that published runs of dense models of 7B to
            70B reach on the generation; None: none is known to us.
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
            hbm_bytes=int(30.75 * GiB),  # of 32
            hbm_bandwidth=1228e9,
            link_bandwidth=50e9,  # 2,400 Gb/s over six links
            clock=1.05e9,  # 262,144 FLOPs a cycle: two cores of four 128 x 128 units
            options={"chip_config_name": "megacore"},  # one device a chip, as the cloud's machines have it
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
            clock=1.5e9,  # 131,072 FLOPs a cycle: four 128 x 128 units
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
            hbm_bytes=int(95.74 * GiB),  # the page says 95 GB
            hbm_bandwidth=2765e9,
            link_bandwidth=100e9,  # 1,200 GB/s both ways over six links
            clock=1.75e9,  # 262,144 FLOPs a cycle: two cores of four 128 x 128 units
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
            clock=1.75e9,  # 524,288 FLOPs a cycle
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
            clock=2.2e9,  # if a core does 524,288 FLOPs a cycle, as v6e's; no page says (assumption)
            published_mfu=(0.52, 0.52),
            gke=("tpu7x", "tpu7x-standard-4t"),
            host_bandwidth=32e9,
            network_bandwidth=12.5e9,
        ),
    )
}
LARGEST = {"v4": 4096, "v5e": 256, "v5p": 6144, "v6e": 256, "tpu7x": 9216}  # chips of a slice, on the same pages


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of chips, or several equal ones that the data-centre network connects."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def slice_name(self) -> str:
        """A slice as JAX wants it: "v5p:4x4x4"."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def name(self) -> str:
        return self.slice_name if self.slices == 1 else f"{self.slices} x {self.slice_name}"

    @property
    def cloud_name(self) -> str:
        """A slice as gcloud wants it: "v5p-128"."""
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
    def usual(self) -> bool:
        """Whether the cloud gives a slice of so many chips this shape."""
        return _usual(self.chip, self.chips // self.slices * self.chip.cloud[1]) == self.shape

    @property
    def wrap(self) -> tuple[bool, bool, bool]:
        """Along which directions the last chip is linked with the first, so that they are rings.

        In three dimensions where the slice consists of cubes of 4x4x4, which optical switches join; in two, along the
        whole side of a pod. It changes the program: without rings the compiler gathers by summing, and that sends twice
        as much.
        """
        if self.chip.dims == 3:
            return (all(length % 4 == 0 for length in self.shape),) * 3
        return self.shape[0] == 16, self.shape[1] == 16, False

    @property
    def options(self) -> dict[str, Any]:
        """What JAX's topology description needs beside the name. It takes a slice for one without rings unless told."""
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

    def send_bandwidth(self, places: list[list[int]]) -> float:
        """Bytes/s that a device at most sends to the others of a group, of which `places` are [slice, *coordinates].

        Between slices it is the network's. Within one, a direction of the interconnect counts if the group extends
        along it: with both its links, with one where the slice is two chips long. Devices of one chip are taken to have
        a share of all its links.
        """
        slices, *extents = [len(set(along)) for along in zip(*places, strict=True)]
        if slices > 1:
            return self.chip.network_bandwidth / self.chip.devices
        used = [length for length, extent in zip(self.shape, extents, strict=False) if extent > 1] or list(self.shape)
        links = sum(0 if length == 1 else 1 if length == 2 else 2 for length in used)
        return max(links, 1) * self.chip.link_bandwidth / self.chip.devices

    def larger(self) -> "Topology | None":
        """The slice of twice the chips, the shortest direction doubled; None if there is none."""
        shortest = self.shape.index(min(self.shape))
        shape = sorted(length * (2 if i == shortest else 1) for i, length in enumerate(self.shape))
        larger = Topology(self.chip, tuple(shape), self.slices)
        return larger if larger.chips // self.slices <= LARGEST[self.chip.name] else None


def topology(name: str, slices: int = 1) -> Topology:
    """The slice of that name, JAX's or the cloud's, or so many of them.

    Raises:
        UserError: there is none.
    """
    examples = "write GENERATION:SHAPE such as v5p:4x4x4 or v6e:16x16, or the cloud's name such as v5p-128"
    found = re.fullmatch(r"([a-z]+\d+[a-z]*)(?::(\d+(?:x\d+)*)|-(\d+))", name.strip().lower())
    if not found:
        raise UserError(f"--topology={name} is no slice of TPUs: {examples}", EXIT_USAGE)
    generation, written, count = found.groups()
    names = {chip.cloud[0]: chip for chip in CHIPS.values()} | CHIPS
    if generation not in names:
        near = difflib.get_close_matches(generation, names, 1)
        hint = f"did you mean {near[0]}{name.strip().lower().removeprefix(generation)}? " if near else ""
        raise UserError(f"--topology={name}: {hint}There are {', '.join(CHIPS)}; {examples}", EXIT_USAGE)
    chip = names[generation]
    shape = tuple(int(length) for length in written.split("x")) if written else _usual(chip, int(count))
    if shape is None:
        counted = "cores, two a chip" if chip.cloud[1] == 2 else "chips"
        usual = Topology(chip, _usual(chip, 16) or ()).name
        raise UserError(
            f"--topology={name} counts {counted}, and that many have no usual shape: write it, such as {usual}, or take"
            f" {_nearest(chip, int(count))}",
            EXIT_USAGE,
        )
    if len(shape) != chip.dims or min(shape) < 1:
        example = "4x4x4" if chip.dims == 3 else "16x16"
        raise UserError(f"--topology={name}: {chip.name} has {chip.dims} dimensions, as in {example}", EXIT_USAGE)
    slice_ = Topology(chip, shape, slices)
    if slices < 1:
        raise UserError(f"--slices={slices} must be at least 1", EXIT_USAGE)
    if math.prod(shape) > LARGEST[chip.name]:
        raise UserError(
            f"--topology={name} is {math.prod(shape)} chips; the largest slice of {chip.name} is {LARGEST[chip.name]}",
            EXIT_USAGE,
        )
    return slice_


def _usual(chip: Chip, count: int) -> tuple[int, ...] | None:
    """The shape that the cloud gives a slice by its count: a power of two, as nearly a cube or a square as it gets."""
    chips, rest = divmod(count, chip.cloud[1])
    power = chips.bit_length() - 1
    if rest or chips < 1 or chips != 2**power or (chip.dims == 3 and power < 2):
        return None
    if chip.dims == 3 and power == 2:
        return (2, 2, 1)
    short, longer = divmod(power, chip.dims)
    return tuple(2 ** (short + (i >= chip.dims - longer)) for i in range(chip.dims))


def _nearest(chip: Chip, count: int) -> str:
    """The cloud's names of the usual slices that are next to so many chips or cores."""
    counts = [2**power * chip.cloud[1] for power in range(LARGEST[chip.name].bit_length())]
    usual = [number for number in counts if _usual(chip, number)]
    below = [number for number in usual if number < count][-1:]
    above = [number for number in usual if number > count][:1]
    return " or ".join(f"{chip.cloud[0]}-{number}" for number in below + above)
