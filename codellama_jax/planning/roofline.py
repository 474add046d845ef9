"""What one run of a compiled program costs on a chip: a bound that nothing beats, and an estimate.

The bound: the products at the chip's peak, or the bytes at its memory's, or what is sent at its links' or to its host,
whichever is longest, as if they overlapped wholly.

The estimate goes through the program in the order in which the compiler scheduled it, and adds up the cycles that the
compiler itself expects of each instruction. It has none for two kinds. Attention kernels are taken to run at
KERNEL_EFFICIENCY of peak. Collectives take their bytes over their links, one after the other; those that run beside
products cost what is left of them when their result is asked for.
"""

import collections
import dataclasses

from codellama_jax.planning.chips import Topology
from codellama_jax.planning.collectives import Collective, Collectives
from codellama_jax.planning.hlo import Instruction, Program
from codellama_jax.planning.memory_traffic import host_bytes, memory_bytes

# Of a kernel's products, a share is masked away, and between them is softmax: half of peak (assumption).
KERNEL_EFFICIENCY = 0.5


@dataclasses.dataclass(frozen=True)
class Slice:
    """Where a program runs: `places` has the slice and chip coordinates of each device, in the order of the mesh."""

    topology: Topology
    places: list[list[int]]

    def seconds(self, collective: Collective) -> float:
        """What a collective takes if nothing else is sent."""
        if not collective.bytes:
            return 0.0
        return collective.bytes / self.topology.send_bandwidth([self.places[device] for device in collective.group])


def sent(collectives: Collectives) -> dict[str, dict[str, float]]:
    """Bytes that a device sends in one run, by kind and mesh axes."""
    total: dict[str, dict[str, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
    for times, collective in collectives.all:
        if collective.bytes:
            total[collective.kind][collective.axes] += times * collective.bytes
    return {kind: dict(axes) for kind, axes in total.items()}


def bound(program: Program, collectives: Collectives, where: Slice) -> dict[str, float]:
    """Seconds that the products, the memory, the links and what waits on the host need at the least."""
    by_axes: dict[str, float] = collections.defaultdict(float)
    total = 0.0
    for times, collective in collectives.all:
        by_axes[collective.axes] += times * where.seconds(collective)
        total += times * collective.bytes
    one_slice = [place for place in where.places if place[0] == where.places[0][0]]
    every_link = total / where.topology.send_bandwidth(one_slice)
    return {
        "compute": (program.product_flops + program.attention_flops) / where.topology.flops,
        "memory": memory_bytes(program) / where.topology.hbm_bandwidth,
        "interconnect": max(every_link, *by_axes.values()) if by_axes else 0.0,
        "host": host_bytes(program) / where.topology.host_bandwidth,
    }


def estimate(program: Program, collectives: Collectives, where: Slice) -> dict[str, float] | None:
    """Seconds of a run, and what they consist of: instructions, attention, exposed collectives. None without cycles."""
    parts = _replay(program, program.entry, collectives, where)
    return {"total": sum(parts.values()), **parts} if parts["instructions"] else None


def _replay(program: Program, computation: str, collectives: Collectives, where: Slice) -> dict[str, float]:
    parts = {"instructions": 0.0, "attention": 0.0, "collectives": 0.0}
    links_free, under_way = 0.0, dict[str, float]()
    for instruction in program.computations[computation].values():
        parts["instructions"] += instruction.cycles / where.topology.chip.clock
        inner = [_replay(program, name, collectives, where) for name in _called(program, instruction)]
        if inner:
            times = program.trips(computation, instruction) if instruction.opcode == "while" else 1
            slowest = max(inner, key=lambda parts: sum(parts.values()))
            parts = {part: seconds + times * slowest[part] for part, seconds in parts.items()}
        elif flops := program.kernel_flops(computation, instruction):
            parts["attention"] += flops / where.topology.flops / KERNEL_EFFICIENCY
        elif found := collectives.of(computation, instruction):
            when, key, collective = found
            now = sum(parts.values())
            if when == "done":
                end = under_way.pop(key, now)
            else:
                end = links_free = max(now, links_free) + where.seconds(collective)
                under_way[key] = end
            if when != "start":
                parts["collectives"] += max(end - now, 0.0)
    return parts


def _called(program: Program, instruction: Instruction) -> list[str]:
    """Computations that the chip's own core goes through: not those that run beside it."""
    if instruction.opcode == "while":
        return [instruction.attribute("body") or ""]
    return [] if instruction.opcode == "async-start" else program.called(instruction)
