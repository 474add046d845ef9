"""The time of one run of a compiled program on a chip: a bound that no run can beat, and an estimate.

The bound is the longest of four times, as if they overlapped completely: products at the chip's peak FLOP/s, memory
traffic at the memory's bandwidth, communication at the bandwidth of the links, and transfers to and from the host.

The estimate walks through the program in the order of the compiler's schedule and adds up the compiler's own cycle
estimate of each instruction. Three kinds of instructions have none. The cycles of attention kernels are those of
kernels/splash_cycles.py. Collectives send their bytes over their links one after the other, and asynchronous copies
move theirs through the memory, or between it and the host; what runs asynchronously costs only the time that remains
when its result is needed.
"""

import collections
import dataclasses
from typing import NamedTuple

from codellama_jax.planning import attention_kernels
from codellama_jax.planning.chips import Topology
from codellama_jax.planning.collectives import Collective, Collectives
from codellama_jax.planning.hlo import HOST_MEMORY, Instruction, Program
from codellama_jax.planning.memory_traffic import host_bytes, memory_bytes


@dataclasses.dataclass(frozen=True)
class Placement:
    """The slice and the coordinates of the devices that run a program.

    Attributes:
        topology: the slice.
        coordinates: [slice, *chip coordinates] of each device, in the order of the mesh.
    """

    topology: Topology
    coordinates: list[list[int]]

    def seconds(self, collective: Collective) -> float:
        """Duration of a collective if nothing else is sent."""
        if not collective.bytes:
            return 0.0
        group = [self.coordinates[device] for device in collective.group]
        return collective.bytes / self.topology.send_bandwidth(group)


def bytes_sent(collectives: Collectives) -> dict[str, dict[str, float]]:
    """Bytes that one device sends in one run, by kind of collective and mesh axes."""
    total: dict[str, dict[str, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
    for times, collective in collectives.all:
        if collective.bytes:
            total[collective.kind][collective.axes] += times * collective.bytes
    return {kind: dict(axes) for kind, axes in total.items()}


def bound(program: Program, collectives: Collectives, placement: Placement) -> dict[str, float]:
    """Lower bounds on the seconds of a run, from products, memory traffic, interconnect and host transfers. The largest
    of them bounds the run."""
    topology = placement.topology
    by_axes: dict[str, float] = collections.defaultdict(float)
    total = 0.0
    for times, collective in collectives.all:
        by_axes[collective.axes] += times * placement.seconds(collective)
        total += times * collective.bytes
    one_slice = [device for device in placement.coordinates if device[0] == placement.coordinates[0][0]]
    all_links = total / topology.send_bandwidth(one_slice)
    saved = program.eight_bit_flops * (1 - 1 / topology.chip.eight_bit_speed)
    return {
        "compute": (program.product_flops + attention_kernels.attention_flops(program) - saved) / topology.flops,
        "memory": memory_bytes(program) / topology.hbm_bandwidth,
        "interconnect": max(all_links, *by_axes.values()) if by_axes else 0.0,
        "host": host_bytes(program) / topology.host_bandwidth,
    }


def estimate(program: Program, collectives: Collectives, placement: Placement) -> dict[str, float] | None:
    """Estimated seconds of a run: "total" and its parts "instructions", "attention", "collectives" and "copies" (of the
    last two only what is exposed).

    None if the program has no cycle estimates.
    """
    parts = _Replay(program, collectives, placement).run(program.entry)
    return {"total": sum(parts.values()), **parts} if parts["instructions"] else None


class _Transfer(NamedTuple):
    """An instruction's role in a transfer that may run asynchronously.

    Attributes:
        part: the part of the estimate to which its exposed time belongs.
        path: what it uses: "links", "memory" or "host"; transfers over one path follow one another.
        event: "sync", "start" or "done".
        key: the same for the start and the done of a transfer.
        seconds: its duration alone.
    """

    part: str
    path: str
    event: str
    key: str
    seconds: float


class _Replay:
    """Adds up the time of a program's instructions in the order of its schedule."""

    def __init__(self, program: Program, collectives: Collectives, placement: Placement):
        self._program, self._collectives, self._placement = program, collectives, placement

    def run(self, computation: str) -> dict[str, float]:
        """Estimated seconds of one run of a computation, by part."""
        program, topology = self._program, self._placement.topology
        parts = {"instructions": 0.0, "attention": 0.0, "collectives": 0.0, "copies": 0.0}
        free = collections.defaultdict[str, float](float)  # when links, memory and the host's link are free again
        pending = dict[str, float]()  # when that which has started ends
        for instruction in program.computations[computation].values():
            parts["instructions"] += instruction.cycles / topology.chip.clock
            inner = [self.run(name) for name in _core_callees(program, instruction)]
            if inner:
                times = program.trips(computation, instruction) if instruction.opcode == "while" else 1
                slowest = max(inner, key=lambda parts: sum(parts.values()))
                parts = {part: seconds + times * slowest[part] for part, seconds in parts.items()}
            elif kernel := attention_kernels.kernel(program, computation, instruction):
                parts["attention"] += attention_kernels.seconds(kernel, topology)
            elif transfer := self._transfer(computation, instruction):
                now = sum(parts.values())
                if transfer.event == "done":
                    end = pending.pop(transfer.key, now)
                else:
                    end = free[transfer.path] = max(now, free[transfer.path]) + transfer.seconds
                    pending[transfer.key] = end
                if transfer.event != "start":
                    parts[transfer.part] += max(end - now, 0.0)
        return parts

    def _transfer(self, computation: str, instruction: Instruction) -> _Transfer | None:
        """The transfer that an instruction is part of."""
        if role := self._collectives.role_of(computation, instruction):
            event, key, collective = role
            return _Transfer("collectives", "links", event, key, self._placement.seconds(collective))
        if instruction.opcode == "copy-done":
            return _Transfer("copies", "", "done", instruction.operands[0], 0.0)
        if instruction.opcode != "copy-start":
            return None
        topology, arrays = self._placement.topology, instruction.shapes[:2]  # its result has both arrays
        if any(shape.space == HOST_MEMORY for shape in arrays):
            path, seconds = "host", arrays[0].bytes / topology.host_bandwidth
        else:
            path, seconds = "memory", sum(x.bytes for x in arrays if x.space == 0) / topology.hbm_bandwidth
        return _Transfer("copies", path, "start", instruction.name, seconds)


def _core_callees(program: Program, instruction: Instruction) -> list[str]:
    """The computations that an instruction runs synchronously on the core."""
    if instruction.opcode == "while":
        return [instruction.attribute("body") or ""]
    return [] if instruction.opcode == "async-start" else program.callees(instruction)
