"""Reads an XLA program, as text, after all optimisations: how often its parts run, and what they multiply.

XLA's own cost_analysis counts the body of a loop once; here everything is times the trips of the loops around it. All
figures are those of one device.
"""

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

HOST = 5


class Shape(NamedTuple):
    """An array of a program. `space` is where it lies: 0 is the device's main memory, HOST its host's, any other is on
    the chip."""

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> float:
        bits = re.search(r"\d+", self.dtype)
        width = {"pred": 1.0, "token": 0.0, "opaque": 0.0}.get(self.dtype)
        return math.prod(self.dims) * (width if width is not None else int(bits[0]) / 8 if bits else 0.0)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation; a tuple's shapes are its leaves."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    text: str  # what follows the operands

    def attribute(self, key: str) -> str | None:
        """The name of a computation, or the number, that `key=` has."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.text)
        return found[1] if found else None

    def integers(self, key: str) -> list[int]:
        """Those of `key={1,2}`."""
        found = re.search(rf"\b{key}={{([\d,]*)}}", self.text)
        return [int(number) for number in found[1].split(",") if number] if found else []

    @property
    def target(self) -> str:
        """What a custom call calls."""
        found = re.search(r'custom_call_target="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def cycles(self) -> int:
        """The compiler's own estimate of the cycles that the instruction takes; 0 where it made none.

        Before it has generated code, the largest integer stands in for what it does not know yet.
        """
        found = re.search(r'"estimated_cycles":"?(\d+)', self.text)
        return int(found[1]) if found and int(found[1]) < 2**62 else 0


# Matrix products of queries x keys x head size in each of the kernels of splash attention: scores and values; backwards
# the scores, the gradient of the weights and that of the queries; or, for the gradients of keys and values, four.
KERNEL_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}

LONGEST_LOOP = 100_000  # trips that are counted before a loop is called endless

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
NO_WORK = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
NO_WORK |= {"while", "call", "conditional", "async-start", "async-update", "async-done", "opt-barrier", "domain"}


class _Lazy(dict[int, Any]):
    """Elements that are made when they are asked for."""

    def __init__(self, make: Callable[[int], Any]):
        super().__init__()
        self._make = make

    def __missing__(self, index: int) -> Any:
        self[index] = self._make(index)
        return self[index]

    def get(self, index: int, default: Any = None) -> Any:
        return self[index]


class Program:
    """The computations of a program."""

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
                lines[-1] += line  # an attribute with a line end in it

    # ---------------------------------------------------------------- how often

    @functools.cached_property
    def runs(self) -> list[tuple[str, float, str]]:
        """Every computation that runs, how often, and how: the "core" goes through it, something else does "beside" the
        core (copies, collectives under way), or it is "fused" into one instruction."""
        found = list[tuple[str, float, str]]()

        def visit(computation: str, times: float, how: str) -> None:
            found.append((computation, times, how))
            for instruction in self.computations[computation].values():
                if instruction.opcode == "while":
                    visit(instruction.attribute("body") or "", times * self.trips(computation, instruction), how)
                elif instruction.opcode == "fusion":
                    visit(instruction.attribute("calls") or "", times, "fused")
                else:
                    for called in self.called(instruction):
                        visit(called, times, "beside" if instruction.opcode == "async-start" else how)

        visit(self.entry, 1.0, "core")
        return found

    def called(self, instruction: Instruction) -> list[str]:
        """Computations that a call, an asynchronous start or a conditional (all its branches) runs."""
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
        """How often a loop runs: as the compiler notes it, or else by going through what it counts.

        1, and noted in unknown_loops, where neither tells.
        """
        noted = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text)
        if noted:
            return int(noted[1])
        condition, body = loop.attribute("condition") or "", loop.attribute("body") or ""
        counters = [i for i, shape in enumerate(loop.shapes) if not shape.dims and shape.dtype[0] in "su"]
        start = self._value(computation, loop.operands[0], [])
        state = {i: start[i] for i in counters} if isinstance(start, dict) else {}
        for count in range(LONGEST_LOOP):
            going_on = self._value(condition, self.roots[condition].name, [state])
            if going_on is None:
                break
            if not going_on:
                return count
            after = self._value(body, self.roots[body].name, [state])
            state = {i: after[i] for i in counters} if isinstance(after, dict) else {}
        if loop.name not in self.unknown_loops:
            self.unknown_loops.append(loop.name)
        return 1

    def _value(self, computation: str, name: str, arguments: list[Any]) -> Any:
        """A value as far as it is made of integer scalars: an integer, index -> value for a tuple, or None.

        A tuple's elements are worked out when they are asked for.
        """
        instruction = self.computations[computation][name]
        opcode, operands = instruction.opcode, instruction.operands
        of = functools.partial(self._value, computation, arguments=arguments)
        if opcode == "parameter":
            number = int(instruction.text.partition(")")[0])
            return arguments[number] if number < len(arguments) else None
        if opcode == "constant":
            found = re.match(r"-?\d+(?=\))", instruction.text)
            return int(found[0]) if found else None
        if opcode == "tuple":
            return _Lazy(lambda index: of(operands[index]))
        if opcode == "get-tuple-element":
            whole = of(operands[0])
            index = int(instruction.attribute("index") or 0)
            return whole.get(index) if isinstance(whole, dict) else None
        if opcode in ("copy", "bitcast", "convert", "copy-start", "copy-done"):
            return of(operands[0])
        if opcode in ("fusion", "call"):
            inner = instruction.attribute("calls") or instruction.attribute("to_apply") or ""
            return self._value(inner, self.roots[inner].name, [of(operand) for operand in operands])
        name = instruction.attribute("direction") or "" if opcode == "compare" else opcode
        values = [of(operand) for operand in operands] if name in _ARITHMETIC else [None]
        return int(_ARITHMETIC[name](*values)) if all(isinstance(value, int) for value in values) else None

    @functools.cached_property
    def recomputed(self) -> int:
        """Instructions that the compiler does a second time, of its own accord, so that the program fits in memory."""
        return sum(
            ".remat" in instruction.name and instruction.opcode not in NO_WORK
            for computation, _, how in self.runs
            if how == "core"
            for instruction in self.computations[computation].values()
        )

    # ---------------------------------------------------------------- products

    @functools.cached_property
    def product_flops(self) -> float:
        """FLOPs of all matrix products but those of kernels."""
        return sum(
            times * self._product(computation, instruction)
            for computation, times, _ in self.runs
            for instruction in self.computations[computation].values()
            if instruction.opcode in ("dot", "convolution")
        )

    def _product(self, computation: str, instruction: Instruction) -> float:
        left, right = (self.computations[computation][name].shapes[0].dims for name in instruction.operands[:2])
        result = instruction.shapes[0].dims
        if instruction.opcode == "dot":
            contracted = math.prod(left[dim] for dim in instruction.integers("lhs_contracting_dims"))
            return 2.0 * math.prod(result) * contracted
        return _convolution(instruction, left, right, result)

    def kernel_flops(self, computation: str, instruction: Instruction) -> float | None:
        """FLOPs of one run of an attention kernel over the causal half of its square; None if it is no such kernel.

        XLA knows nothing of what is in a kernel. The first two large operands are the queries [.., H, S, K] and the
        keys [.., G, T, K]; where the queries are a part of the sequence, parts are dealt so that each sees half.
        """
        products = [number for name, number in KERNEL_PRODUCTS.items() if instruction.name.startswith(name)]
        if instruction.target != "tpu_custom_call" or not products:
            return None
        shapes = [self.computations[computation][name].shapes[0] for name in instruction.operands]
        queries, keys = [shape.dims for shape in shapes if len(shape.dims) >= 3 and shape.dtype[0] in "bf"][:2]
        return products[0] * 2.0 * math.prod(queries) * keys[-2] / 2

    @functools.cached_property
    def attention_flops(self) -> float:
        """FLOPs of all attention kernels."""
        return sum(
            times * (self.kernel_flops(computation, instruction) or 0.0)
            for computation, times, _ in self.runs
            for instruction in self.computations[computation].values()
            if instruction.opcode == "custom-call"
        )


def _instruction(line: str) -> Instruction:
    name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shapes = []
    for dtype, dims, layout in _SHAPE.findall(rest[:end]):
        space = re.search(r"S\((\d+)\)", layout)
        shapes.append(Shape(dtype, tuple(int(d) for d in dims.split(",") if d), int(space[1]) if space else 0))
    opcode, _, tail = rest[end:].strip().partition("(")
    operands, close = (), _closing("(" + tail, 0) - 1
    if opcode not in ("parameter", "constant"):
        operands = tuple(re.findall(r"%([\w.\-#]+)", tail[:close]))
        tail = tail[close:]
    return Instruction(name.removeprefix("%"), opcode, tuple(shapes), operands, tail)


def _with_elements(instructions: list[Instruction]) -> dict[str, Instruction]:
    """By name; an operand "%tuple#1", as newer compilers write the elements of tuples, becomes an instruction too."""
    named = {instruction.name: instruction for instruction in instructions}
    for name in {operand for instruction in instructions for operand in instruction.operands if "#" in operand}:
        whole, _, index = name.partition("#")
        shape = named[whole].shapes[int(index)]
        named[name] = Instruction(name, "get-tuple-element", (shape,), (whole,), f"), index={index}")
    return named


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"brackets do not close: {text[start : start + 80]}")


def _convolution(instruction: Instruction, left: tuple, right: tuple, result: tuple) -> float:
    """FLOPs of a convolution, as which TPUs do matrix products: taps that fall on padding are not counted."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels, instruction.text[:200]
    of_left, of_right, of_result = labels.groups()
    window = {key: value.split("x") for key, value in re.findall(r"(\w+)=([\w\-]+)", _window(instruction.text))}
    taps = 1
    for number in range(len(of_left) - 2):
        size, kernel = left[of_left.index(str(number))], right[of_right.index(str(number))]
        low = int(window["pad"][number].partition("_")[0]) if "pad" in window else 0
        stride, of_base, of_window = (
            int(window[key][number]) if key in window else 1 for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        outputs = np.arange(result[of_result.index(str(number))])[:, None] * stride
        places = outputs + np.arange(kernel)[None, :] * of_window - low
        inside = (places >= 0) & (places <= (size - 1) * of_base) & (places % of_base == 0)
        taps *= int(inside.sum())
    features = right[of_right.index("i")] * right[of_right.index("o")]
    batch = left[of_left.index("b")]
    return 2.0 * taps * features * batch / int(instruction.attribute("batch_group_count") or 1)


def _window(text: str) -> str:
    found = re.search(r"window=\{([^}]*)\}", text)
    return found[1] if found else ""
