"""Parses the text of an optimised XLA program; counts the runs of its computations and the FLOPs of its products.

XLA's own cost_analysis counts the body of a loop once; here it is multiplied by the trip count of the loop. All figures
are per device.
"""

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

HOST_MEMORY = 5  # the memory space of arrays in host memory


class Shape(NamedTuple):
    """An array of a program. `space` is its memory space: 0 is the device's main memory, HOST_MEMORY is host memory,
    and all others are on-chip memory."""

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def bits(self) -> int:
        """Bits of an element."""
        bits = re.search(r"\d+", self.dtype)
        return 8 if self.dtype == "pred" else int(bits[0]) if bits else 0

    @property
    def bytes(self) -> float:
        return math.prod(self.dims) * self.bits / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation; the shapes of a tuple are those of its leaves."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    text: str  # the line after the operands

    def attribute(self, key: str) -> str | None:
        """The value of `key=`, a computation's name or a number."""
        match = re.search(rf"\b{key}=%?([\w.\-]+)", self.text)
        return match[1] if match else None

    def integers(self, key: str) -> list[int]:
        """The values of `key={1,2}`."""
        match = re.search(rf"\b{key}={{([\d,]*)}}", self.text)
        return [int(number) for number in match[1].split(",") if number] if match else []

    @property
    def target(self) -> str:
        """The target of a custom call."""
        match = re.search(r'custom_call_target="([^"]*)"', self.text)
        return match[1] if match else ""

    @property
    def cycles(self) -> int:
        """The compiler's estimate of the cycles of the instruction; 0 if there is none.

        Before code generation the compiler writes the largest integer for cycles that it does not know yet.
        """
        match = re.search(r'"estimated_cycles":"?(\d+)', self.text)
        return int(match[1]) if match and int(match[1]) < 2**62 else 0


MAX_TRIPS = 100_000  # a loop with more trips is reported in unknown_loops

_ARITHMETIC: dict[str, Callable[..., int]] = {
    **{"add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "minimum": min, "maximum": max},
    **{
        "LT": operator.lt,
        "LE": operator.le,
        "GT": operator.gt,
        "GE": operator.ge,
        "EQ": operator.eq,
        "NE": operator.ne,
    },
}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
ZERO_COST = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
}
ZERO_COST |= {"while", "call", "conditional", "async-start", "async-update", "async-done", "opt-barrier", "domain"}


class _LazyTuple(dict[int, Any]):
    """The elements of a tuple, each computed when it is first accessed."""

    def __init__(self, make: Callable[[int], Any]):
        super().__init__()
        self._make = make

    def __missing__(self, index: int) -> Any:
        self[index] = self._make(index)
        return self[index]

    def get(self, index: int, default: Any = None) -> Any:
        return self[index]


class Program:
    """The computations of a program.

    Attributes:
        computations: the instructions of each computation, by name.
        roots: the root instruction of each computation.
        entry: the name of the computation at which the program starts.
        unknown_loops: names of the loops whose trip count is unknown; see `trips`.
    """

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, Instruction] = {}
        self.entry = ""
        self.unknown_loops: list[str] = []
        self._parse(text)

    def _parse(self, text: str) -> None:
        current, lines = "", list[str]()
        for line in text.splitlines():
            header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
            if header:
                current, lines = header[2], []
                self.entry = current if header[1] else self.entry
            elif current and re.fullmatch(r"\}(, execution_thread=.*)?", line):
                instructions = [_instruction(line) for line in lines]
                self.computations[current] = _with_elements(instructions)
                roots = [i for i, line in zip(instructions, lines, strict=True) if line.lstrip().startswith("ROOT ")]
                self.roots[current] = (roots or instructions[-1:])[0]
                current = ""
            elif current and re.match(r"\s+(ROOT )?%?[\w.\-]+ = ", line):
                lines.append(line)
            elif current and lines:
                lines[-1] += line  # the continuation of an attribute that contains a line break

    # ---------------------------------------------------------------- executions

    @functools.cached_property
    def executions(self) -> list[tuple[str, float, str]]:
        """All computations that run: (name, number of runs, mode). The mode is "core" if the core runs its instructions
        one by one, "async" if it runs in parallel with the core (copies, collectives), "fused" if it is part of one
        instruction."""
        executions = list[tuple[str, float, str]]()

        def visit(computation: str, times: float, mode: str) -> None:
            executions.append((computation, times, mode))
            for instruction in self.computations[computation].values():
                if instruction.opcode == "while":
                    visit(instruction.attribute("body") or "", times * self.trips(computation, instruction), mode)
                elif instruction.opcode == "fusion":
                    visit(instruction.attribute("calls") or "", times, "fused")
                else:
                    for callee in self.callees(instruction):
                        visit(callee, times, "async" if instruction.opcode == "async-start" else mode)

        visit(self.entry, 1.0, "core")
        return executions

    def callees(self, instruction: Instruction) -> list[str]:
        """The computations that a call, an asynchronous start or a conditional (all branches) runs."""
        if instruction.opcode in ("call", "async-start"):
            keys = ("to_apply", "calls")
        elif instruction.opcode == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", instruction.text)
            if branches:
                return [name.strip(" %") for name in branches[1].split(",")]
            keys = ("true_computation", "false_computation")
        else:
            return []
        return [name for name in map(instruction.attribute, keys) if name in self.computations]

    def trips(self, computation: str, loop: Instruction) -> int:
        """The trip count of a loop, from the compiler's annotation or else by evaluating its counters.

        If neither gives it, the loop is added to unknown_loops and the result is 1.
        """
        annotated = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text)
        if annotated:
            return int(annotated[1])
        condition, body = loop.attribute("condition") or "", loop.attribute("body") or ""
        counters = [i for i, shape in enumerate(loop.shapes) if not shape.dims and shape.dtype[0] in "su"]
        start = self._value(computation, loop.operands[0], [])
        state = {i: start[i] for i in counters} if isinstance(start, dict) else {}
        for count in range(MAX_TRIPS):
            condition_holds = self._value(condition, self.roots[condition].name, [state])
            if condition_holds is None:
                break
            if not condition_holds:
                return count
            result = self._value(body, self.roots[body].name, [state])
            state = {i: result[i] for i in counters} if isinstance(result, dict) else {}
        if loop.name not in self.unknown_loops:
            self.unknown_loops.append(loop.name)
        return 1

    def _value(self, computation: str, name: str, arguments: list[Any]) -> Any:
        """Evaluates a value that depends on integer scalars only: an integer, a dict of index -> value for a tuple, or
        None if it depends on anything else. Elements of a tuple are evaluated lazily."""
        instruction = self.computations[computation][name]
        opcode, operands = instruction.opcode, instruction.operands
        evaluate = functools.partial(self._value, computation, arguments=arguments)
        if opcode == "parameter":
            number = int(instruction.text.partition(")")[0])
            return arguments[number] if number < len(arguments) else None
        if opcode == "constant":
            match = re.match(r"-?\d+(?=\))", instruction.text)
            return int(match[0]) if match else None
        if opcode == "tuple":
            return _LazyTuple(lambda index: evaluate(operands[index]))
        if opcode == "get-tuple-element":
            elements = evaluate(operands[0])
            index = int(instruction.attribute("index") or 0)
            return elements.get(index) if isinstance(elements, dict) else None
        if opcode in ("copy", "bitcast", "convert", "copy-start", "copy-done"):
            return evaluate(operands[0])
        if opcode in ("fusion", "call"):
            inner = instruction.attribute("calls") or instruction.attribute("to_apply") or ""
            return self._value(inner, self.roots[inner].name, [evaluate(operand) for operand in operands])
        name = instruction.attribute("direction") or "" if opcode == "compare" else opcode
        values = [evaluate(operand) for operand in operands] if name in _ARITHMETIC else [None]
        return int(_ARITHMETIC[name](*values)) if all(isinstance(value, int) for value in values) else None

    @functools.cached_property
    def recomputed(self) -> int:
        """The number of instructions that the compiler rematerialises by itself to make the program fit in memory."""
        return sum(
            ".remat" in instruction.name and instruction.opcode not in ZERO_COST
            for computation, _, mode in self.executions
            if mode == "core"
            for instruction in self.computations[computation].values()
        )

    # ---------------------------------------------------------------- products

    @functools.cached_property
    def _products(self) -> list[tuple[float, int]]:
        """FLOPs of all executions of each matrix product outside of kernels, and the bits of its wider operand."""
        return [
            (
                times * self._dot_flops(computation, instruction),
                max(self.computations[computation][name].shapes[0].bits for name in instruction.operands[:2]),
            )
            for computation, times, _ in self.executions
            for instruction in self.computations[computation].values()
            if instruction.opcode in ("dot", "convolution")
        ]

    @property
    def product_flops(self) -> float:
        """FLOPs of all matrix products except those in kernels."""
        return sum(flops for flops, _ in self._products)

    @property
    def eight_bit_flops(self) -> float:
        """The part of product_flops whose operands have eight bits."""
        return sum(flops for flops, bits in self._products if bits == 8)

    def _dot_flops(self, computation: str, instruction: Instruction) -> float:
        left, right = (self.computations[computation][name].shapes[0].dims for name in instruction.operands[:2])
        result = instruction.shapes[0].dims
        if instruction.opcode == "dot":
            contracted = math.prod(left[dim] for dim in instruction.integers("lhs_contracting_dims"))
            return 2.0 * math.prod(result) * contracted
        return _convolution_flops(instruction, left, right, result)


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing_bracket(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shapes = []
    for dtype, dims, layout in _SHAPE.findall(rest[:end]):
        space = re.search(r"S\((\d+)\)", layout)
        shapes.append(Shape(dtype, tuple(int(d) for d in dims.split(",") if d), int(space[1]) if space else 0))
    opcode, _, tail = rest[end:].strip().partition("(")
    operands, close = (), _closing_bracket("(" + tail, 0) - 1
    if opcode not in ("parameter", "constant"):
        operands = tuple(re.findall(r"%([\w.\-#]+)", tail[:close]))
        tail = tail[close:]
    return Instruction(name.removeprefix("%"), opcode, tuple(shapes), operands, tail)


def _with_elements(instructions: list[Instruction]) -> dict[str, Instruction]:
    """Instructions by name. Newer compilers write elements of tuples as "%tuple#1"; each such operand is added as an
    instruction."""
    named = {instruction.name: instruction for instruction in instructions}
    for name in {operand for instruction in instructions for operand in instruction.operands if "#" in operand}:
        tuple_name, _, index = name.partition("#")
        shape = named[tuple_name].shapes[int(index)]
        named[name] = Instruction(name, "get-tuple-element", (shape,), (tuple_name,), f"), index={index}")
    return named


def _closing_bracket(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced brackets: {text[start : start + 80]}")


def _convolution_flops(instruction: Instruction, left: tuple, right: tuple, result: tuple) -> float:
    """FLOPs of a convolution, without the taps on padding. TPU programs express matrix products as convolutions."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels, instruction.text[:200]
    left_dims, right_dims, result_dims = labels.groups()
    window = {key: value.split("x") for key, value in re.findall(r"(\w+)=([\w\-]+)", _window(instruction.text))}
    taps = 1
    for number in range(len(left_dims) - 2):
        size, kernel = left[left_dims.index(str(number))], right[right_dims.index(str(number))]
        low = int(window["pad"][number].partition("_")[0]) if "pad" in window else 0
        stride, left_dilation, right_dilation = (
            int(window[key][number]) if key in window else 1 for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        outputs = np.arange(result[result_dims.index(str(number))])[:, None] * stride
        indices = outputs + np.arange(kernel)[None, :] * right_dilation - low
        inside = (indices >= 0) & (indices <= (size - 1) * left_dilation) & (indices % left_dilation == 0)
        taps *= int(inside.sum())
    features = right[right_dims.index("i")] * right[right_dims.index("o")]
    batch = left[left_dims.index("b")]
    return 2.0 * taps * features * batch / int(instruction.attribute("batch_group_count") or 1)


def _window(text: str) -> str:
    match = re.search(r"window=\{([^}]*)\}", text)
    return match[1] if match else ""
