"""The time of one run of a compiled program on a chip: a bound that no run can beat, and an estimate.

The bound is the longest of four times, as if they overlapped completely: products at the chip's peak FLOP/s, memory
traffic at the memory's bandwidth, communication at the bandwidth of the links, and transfers to and from the host.

The estimate walks through the program in the order of the compiler's schedule and adds up the compiler's own cycle
estimate of each instruction. Two kinds of instructions have none. Attention kernels are assumed to run at
KERNEL_EFFICIENCY of peak. Collectives send their bytes over their links one after the other; one that runs
asynchronously costs only the time that remains when its result is needed.
"""

import collections
import dataclasses

from codellama_jax.planning.chips import Topology
from codellama_jax.planning.collectives import Collective, Collectives
from codellama_jax.planning.hlo import Instruction, Program
from codellama_jax.planning.memory_traffic import host_bytes, memory_bytes

# Part of a kernel's products is masked, and the softmax runs between them: half of peak (assumption).
KERNEL_EFFICIENCY = 0.5


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
    return {
        "compute": (program.product_flops + program.attention_flops) / topology.flops,
        "memory": memory_bytes(program) / topology.hbm_bandwidth,
        "interconnect": max(all_links, *by_axes.values()) if by_axes else 0.0,
        "host": host_bytes(program) / topology.host_bandwidth,
    }


def estimate(program: Program, collectives: Collectives, placement: Placement) -> dict[str, float] | None:
    """Estimated seconds of a run: "total" and its parts "instructions", "attention", "collectives" (exposed ones only).

    None if the program has no cycle estimates.
    """
    parts = _replay(program, program.entry, collectives, placement)
    return {"total": sum(parts.values()), **parts} if parts["instructions"] else None


def _replay(program: Program, computation: str, collectives: Collectives, placement: Placement) -> dict[str, float]:
    """Estimated seconds of one run of a computation, by part."""
    topology = placement.topology
    parts = {"instructions": 0.0, "attention": 0.0, "collectives": 0.0}
    links_free, pending = 0.0, dict[str, float]()
    for instruction in program.computations[computation].values():
        parts["instructions"] += instruction.cycles / topology.chip.clock
        inner = [_replay(program, name, collectives, placement) for name in _core_callees(program, instruction)]
        if inner:
            times = program.trips(computation, instruction) if instruction.opcode == "while" else 1
            slowest = max(inner, key=lambda parts: sum(parts.values()))
            parts = {part: seconds + times * slowest[part] for part, seconds in parts.items()}
        elif flops := program.kernel_flops(computation, instruction):
            parts["attention"] += flops / topology.flops / KERNEL_EFFICIENCY
        elif role := collectives.role_of(computation, instruction):
            event, key, collective = role
            now = sum(parts.values())
            if event == "done":
                end = pending.pop(key, now)
            else:
                end = links_free = max(now, links_free) + placement.seconds(collective)
                pending[key] = end
            if event != "start":
                parts["collectives"] += max(end - now, 0.0)
    return parts


def _core_callees(program: Program, instruction: Instruction) -> list[str]:
    """The computations that an instruction runs synchronously on the core."""
    if instruction.opcode == "while":
        return [instruction.attribute("body") or ""]
    return [] if instruction.opcode == "async-start" else program.callees(instruction)
