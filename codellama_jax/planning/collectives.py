"""What the devices that run a program send one another.

As in hlo.py, times the trips of loops, and of one device.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from codellama_jax.planning.hlo import Instruction, Program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """Data that devices exchange.

    Attributes:
        kind: one of KINDS.
        axes: mesh axes along which the devices of a group differ, "fsdp" or "data+fsdp".
        group: positions in the mesh of the devices of one group.
        bytes: what one device sends, once.
    """

    kind: str
    axes: str
    group: tuple[int, ...]
    bytes: float


class Collectives:
    """Those of a program. `mesh` has the sizes of the mesh's axes in their order, the slices along the first."""

    def __init__(self, program: Program, mesh: Mapping[str, int], slices: int = 1):
        self.program = program
        self.mesh = dict(mesh)
        self.slices = slices

    @functools.cached_property
    def all(self) -> list[tuple[float, Collective]]:
        """All of them, with how often."""
        return [
            (times, found[2])
            for computation, times, how in self.program.runs
            if how == "core"
            for instruction in self.program.computations[computation].values()
            if (found := self.of(computation, instruction)) and found[0] != "done"
        ]

    def of(self, computation: str, instruction: Instruction) -> tuple[str, str, Collective] | None:
        """What an instruction of a schedule has to do with a collective: ("sync" | "start" | "done", key, collective).

        A start and its done have the same key; None is an instruction that has nothing to do with one, or that works
        on one under way.
        """
        opcode = instruction.opcode
        base = opcode.removesuffix("-start").removesuffix("-done")
        if base in ("send", "recv"):
            return self._between_slices(computation, instruction)
        if base in KINDS:
            if opcode.endswith("-done"):
                start = self.program.computations[computation][instruction.operands[0]]
                return ("done", start.name, self._collective(computation, start))
            when = "start" if opcode.endswith("-start") else "sync"
            return (when, instruction.name, self._collective(computation, instruction))
        if opcode == "async-start":
            found = self._within(instruction.attribute("calls") or "")
            return ("start", instruction.name, found[1]) if found else None
        if opcode == "async-done":
            start = instruction
            while start.opcode in ("async-done", "async-update"):
                start = self.program.computations[computation][start.operands[0]]
            started = self.of(computation, start)
            return ("done", *started[1:]) if started else None
        if opcode == "fusion" and (found := self._within(instruction.attribute("calls") or "")):
            # a product with a gather under way has the gather in it, three times: as it starts, goes on and ends
            fused = self.program.computations[instruction.attribute("calls") or ""].values()
            targets = {i.target for i in fused if i.opcode == "custom-call"}
            if targets & {"AsyncCollectiveStart", "AsyncCollectiveDone"}:
                when = "start" if "AsyncCollectiveStart" in targets else "done"
                return (when, f"channel {found[0].attribute('channel_id')}", found[1])
            if "chain_id=" not in found[0].text:
                return ("sync", instruction.name, found[1])
        return None

    def _between_slices(self, computation: str, instruction: Instruction) -> tuple[str, str, Collective] | None:
        """What goes over the data-centre network: a device gives it to its host with a send, and gets the result, which
        the hosts have made, with a receive."""
        there, name = self.program.computations[computation], instruction.opcode
        start = there[instruction.operands[0]] if name.endswith("-done") else instruction
        between = re.search(r'rendezvous="([^"]*)".*_xla_megascale_transfer_type="([^"]*)"', start.text)
        if not between or name in ("recv", "send-done"):
            return None
        kind, others = between[2].lower().replace("_", "-"), self.slices - 1
        parts = {"all-gather": others, "all-reduce": 2 * others / self.slices}
        sent = start.shapes[0].bytes * parts.get(kind, others / self.slices)
        group = tuple(range(0, math.prod(self.mesh.values()), math.prod(self.mesh.values()) // self.slices))
        when = "start" if name == "send" else "done"
        return (when, between[1], Collective(kind, self._axes([group]), group, sent))

    def _within(self, computation: str) -> tuple[Instruction, Collective] | None:
        """The collective that a computation, or one that it calls, consists of."""
        for instruction in self.program.computations[computation].values():
            if instruction.opcode in KINDS:
                return instruction, self._collective(computation, instruction)
            for called in self.program.called(instruction):
                if found := self._within(called):
                    return found
        return None

    def _collective(self, computation: str, instruction: Instruction) -> Collective:
        kind = instruction.opcode.removesuffix("-start")
        operands = [self.program.computations[computation][name].shapes for name in instruction.operands]
        own = sum(shape.bytes for shapes in operands for shape in shapes)
        if kind == "collective-permute":
            moves = _numbers(instruction, "source_target_pairs")
            far = [move for move in moves if move[0] != move[1]]
            sent = own * len(far) / max(len(moves), 1)
            return Collective(kind, self._axes(far), far[0] if far else (), sent)
        groups = groups_of(instruction) or [tuple(range(math.prod(self.mesh.values())))]  # none: all in one
        others = len(groups[0]) - 1
        parts = {"all-gather": others, "all-reduce": 2 * others / (others + 1)}
        return Collective(kind, self._axes(groups), groups[0], own * parts.get(kind, others / (others + 1)))

    def _axes(self, groups: list[tuple[int, ...]]) -> str:
        """Mesh axes along which the devices of a group differ. A program numbers devices as they stand in the mesh."""
        sizes = list(self.mesh.values())
        varied = set[int]()
        for group in groups:
            places = np.array(np.unravel_index(group, sizes))
            varied |= set(np.flatnonzero((places != places[:, :1]).any(axis=1)).tolist())
        return "+".join(axis for number, axis in enumerate(self.mesh) if number in varied)


def _numbers(instruction: Instruction, key: str) -> list[tuple[int, ...]]:
    """`key={{0,1},{2,3}}`."""
    found = re.search(rf"\b{key}={{((?:{{[\d,]*}},?)*)}}", instruction.text)
    inner = re.findall(r"\{([\d,]*)\}", found[1]) if found else []
    return [tuple(int(number) for number in group.split(",") if number) for group in inner]


def groups_of(instruction: Instruction) -> list[tuple[int, ...]]:
    """The groups of a collective, in any of the three ways in which XLA writes them.

    {{0,1},{2,3}}, or [2,2]<=[4] with an optional T(1,0), or mesh['a'=2,'b'=2] {'b'} with optional device_ids, where an
    axis may be a part of one: 'b':(1)2.
    """
    text = instruction.text
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        shape = [int(size) for size in found[1].split(",")]
        return [tuple(group) for group in _iota(found[2]).reshape(shape).tolist()]
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S*)\))? \{([^}]*)\}", text)
    if not mesh:
        return _numbers(instruction, "replica_groups")
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
    ids = np.arange(math.prod(sizes.values()))
    if mesh[2]:
        ids = _iota(mesh[2]) if mesh[2].startswith("[") else np.array([int(i) for i in mesh[2].split(",")])
    parts, grouped = list[int](), list[int]()  # the axes, cut where a group takes a part of one
    taken = {name: (before, size) for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh[3])}
    for name, size in sizes.items():
        if name in taken and taken[name][0]:
            before, part = map(int, taken[name])
            grouped.append(len(parts) + 1)
            parts += [before, part, size // before // part]
        else:
            grouped += [len(parts)] if name in taken else []
            parts.append(size)
    last = np.moveaxis(ids.reshape(parts), grouped, range(-len(grouped), 0))
    return [tuple(group) for group in last.reshape(-1, math.prod(parts[i] for i in grouped)).tolist()]


def _iota(text: str) -> np.ndarray:
    """[4,2]T(1,0): the numbers from 0 in that shape, transposed, flat."""
    shape, _, order = text.partition("T")
    numbers = np.arange(math.prod(sizes := [int(size) for size in shape.strip("[]").split(",")])).reshape(sizes)
    return (numbers.transpose([int(i) for i in order.strip("()").split(",")]) if order else numbers).ravel()
