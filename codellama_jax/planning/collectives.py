"""Finds the communication between devices in a compiled program.

As in hlo.py, instructions in loops are counted once per trip, and figures are per device.
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
    """An exchange of data between devices.

    Attributes:
        kind: one of KINDS.
        axes: mesh axes along which the devices of a group differ, such as "fsdp" or "data+fsdp".
        group: indices in the mesh of the devices of one group.
        bytes: bytes that one device sends in one execution.
    """

    kind: str
    axes: str
    group: tuple[int, ...]
    bytes: float


class Collectives:
    """The collectives of a program.

    Args:
        program: the program.
        mesh: the sizes of the mesh axes in their order.
        slices: number of slices; they are along the first mesh axis.
    """

    def __init__(self, program: Program, mesh: Mapping[str, int], slices: int = 1):
        self.program = program
        self.mesh = dict(mesh)
        self.slices = slices

    @functools.cached_property
    def all(self) -> list[tuple[float, Collective]]:
        """All collectives, each with its number of executions."""
        return [
            (times, role[2])
            for computation, times, mode in self.program.executions
            if mode == "core"
            for instruction in self.program.computations[computation].values()
            if (role := self.role_of(computation, instruction)) and role[0] != "done"
        ]

    def role_of(self, computation: str, instruction: Instruction) -> tuple[str, str, Collective] | None:
        """The role of an instruction in a collective: ("sync" | "start" | "done", key, collective).

        The start and the done of a collective have the same key. None: the instruction is not part of a collective, or
        only advances a pending one.
        """
        opcode = instruction.opcode
        base = opcode.removesuffix("-start").removesuffix("-done")
        if base in ("send", "recv"):
            return self._between_slices(computation, instruction)
        if base in KINDS:
            if opcode.endswith("-done"):
                start = self.program.computations[computation][instruction.operands[0]]
                return ("done", start.name, self._collective(computation, start))
            event = "start" if opcode.endswith("-start") else "sync"
            return (event, instruction.name, self._collective(computation, instruction))
        if opcode == "async-start":
            inner = self._inner_collective(instruction.attribute("calls") or "")
            return ("start", instruction.name, inner[1]) if inner else None
        if opcode == "async-done":
            start = instruction
            while start.opcode in ("async-done", "async-update"):
                start = self.program.computations[computation][start.operands[0]]
            role = self.role_of(computation, start)
            return ("done", *role[1:]) if role else None
        if opcode == "fusion" and (inner := self._inner_collective(instruction.attribute("calls") or "")):
            # An all-gather that overlaps products is part of three fusions: its start, a step in between, and its end.
            fused = self.program.computations[instruction.attribute("calls") or ""].values()
            targets = {i.target for i in fused if i.opcode == "custom-call"}
            if targets & {"AsyncCollectiveStart", "AsyncCollectiveDone"}:
                event = "start" if "AsyncCollectiveStart" in targets else "done"
                return (event, f"channel {inner[0].attribute('channel_id')}", inner[1])
            if "chain_id=" not in inner[0].text:
                return ("sync", instruction.name, inner[1])
        return None

    def _between_slices(self, computation: str, instruction: Instruction) -> tuple[str, str, Collective] | None:
        """The role of a send or recv in a collective over the data-centre network. A device sends its operand to its
        host with a send. The hosts compute the result, which the device receives with a recv."""
        instructions, name = self.program.computations[computation], instruction.opcode
        start = instructions[instruction.operands[0]] if name.endswith("-done") else instruction
        transfer = re.search(r'rendezvous="([^"]*)".*_xla_megascale_transfer_type="([^"]*)"', start.text)
        if not transfer or name in ("recv", "send-done"):
            return None
        kind, others = transfer[2].lower().replace("_", "-"), self.slices - 1
        parts = {"all-gather": others, "all-reduce": 2 * others / self.slices}
        sent = start.shapes[0].bytes * parts.get(kind, others / self.slices)
        group = tuple(range(0, math.prod(self.mesh.values()), math.prod(self.mesh.values()) // self.slices))
        event = "start" if name == "send" else "done"
        return (event, transfer[1], Collective(kind, self._axes([group]), group, sent))

    def _inner_collective(self, computation: str) -> tuple[Instruction, Collective] | None:
        """The first collective in a computation or in one that it calls."""
        for instruction in self.program.computations[computation].values():
            if instruction.opcode in KINDS:
                return instruction, self._collective(computation, instruction)
            for callee in self.program.callees(instruction):
                if inner := self._inner_collective(callee):
                    return inner
        return None

    def _collective(self, computation: str, instruction: Instruction) -> Collective:
        kind = instruction.opcode.removesuffix("-start")
        operands = [self.program.computations[computation][name].shapes for name in instruction.operands]
        operand_bytes = sum(shape.bytes for shapes in operands for shape in shapes)
        if kind == "collective-permute":
            pairs = _groups(instruction, "source_target_pairs")
            moves = [pair for pair in pairs if pair[0] != pair[1]]
            sent = operand_bytes * len(moves) / max(len(pairs), 1)
            return Collective(kind, self._axes(moves), moves[0] if moves else (), sent)
        groups = replica_groups(instruction) or [tuple(range(math.prod(self.mesh.values())))]  # no groups: all devices
        others = len(groups[0]) - 1
        parts = {"all-gather": others, "all-reduce": 2 * others / (others + 1)}
        return Collective(kind, self._axes(groups), groups[0], operand_bytes * parts.get(kind, others / (others + 1)))

    def _axes(self, groups: list[tuple[int, ...]]) -> str:
        """The mesh axes along which the devices of a group differ. A program numbers devices in the mesh's order."""
        sizes = list(self.mesh.values())
        varying = set[int]()
        for group in groups:
            indices = np.array(np.unravel_index(group, sizes))
            varying |= set(np.flatnonzero((indices != indices[:, :1]).any(axis=1)).tolist())
        return "+".join(axis for number, axis in enumerate(self.mesh) if number in varying)


def _groups(instruction: Instruction, key: str) -> list[tuple[int, ...]]:
    """Parses `key={{0,1},{2,3}}`."""
    match = re.search(rf"\b{key}={{((?:{{[\d,]*}},?)*)}}", instruction.text)
    inner = re.findall(r"\{([\d,]*)\}", match[1]) if match else []
    return [tuple(int(number) for number in group.split(",") if number) for group in inner]


def replica_groups(instruction: Instruction) -> list[tuple[int, ...]]:
    """Parses the groups of a collective in any of XLA's three notations.

    {{0,1},{2,3}}, or [2,2]<=[4] with an optional T(1,0), or mesh['a'=2,'b'=2] {'b'} with optional device_ids, where a
    group may extend over a sub-axis only: 'b':(1)2.
    """
    text = instruction.text
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        shape = [int(size) for size in match[1].split(",")]
        return [tuple(group) for group in _iota(match[2]).reshape(shape).tolist()]
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S*)\))? \{([^}]*)\}", text)
    if not mesh:
        return _groups(instruction, "replica_groups")
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
    ids = np.arange(math.prod(sizes.values()))
    if mesh[2]:
        ids = _iota(mesh[2]) if mesh[2].startswith("[") else np.array([int(i) for i in mesh[2].split(",")])
    shape, grouped = list[int](), list[int]()  # the mesh with sub-axes split off, and which of its axes form groups
    axes = {name: (before, size) for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh[3])}
    for name, size in sizes.items():
        if name in axes and axes[name][0]:
            before, sub_axis = map(int, axes[name])
            grouped.append(len(shape) + 1)
            shape += [before, sub_axis, size // before // sub_axis]
        else:
            grouped += [len(shape)] if name in axes else []
            shape.append(size)
    grouped_last = np.moveaxis(ids.reshape(shape), grouped, range(-len(grouped), 0))
    return [tuple(group) for group in grouped_last.reshape(-1, math.prod(shape[i] for i in grouped)).tolist()]


def _iota(text: str) -> np.ndarray:
    """Parses [4,2]T(1,0): the numbers from 0 in this shape, transposed and flattened."""
    shape, _, order = text.partition("T")
    numbers = np.arange(math.prod(sizes := [int(size) for size in shape.strip("[]").split(",")])).reshape(sizes)
    return (numbers.transpose([int(i) for i in order.strip("()").split(",")]) if order else numbers).ravel()
