"""The attention kernels in a compiled program: what they compute, and how long they take.

A kernel is opaque to XLA, which knows neither its FLOPs nor its cycles.
"""

import math
import re
from typing import NamedTuple

from codellama_jax.kernels import splash_cycles
from codellama_jax.planning.chips import Topology
from codellama_jax.planning.hlo import Instruction, Program

# Number of matrix products of queries x keys x head size in each phase of splash attention. Forward: scores and
# output. dq: scores, gradient of the weights, gradient of the queries. dkv: scores, gradients of weights, keys and
# values; and of the queries if it is fused with dq.
PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
_NAME = re.compile(r"splash_m[hq]a_(fwd|dq|dkv)")
# Part of the peak at which a kernel runs that is not in the table: about what the table has for blocks of 512 on v5p.
UNKNOWN_EFFICIENCY = 0.5


class Kernel(NamedTuple):
    """An attention kernel: causal attention of all heads of all sequences on a device.

    Attributes:
        phase: "fwd", "dq" or "dkv".
        products: number of matrix products of queries x keys x head size.
        block: number of queries and of keys in a block; their geometric mean if they differ; 0: not known.
        shape: what it computes.
    """

    phase: str
    products: int
    block: int
    shape: splash_cycles.Shape

    @property
    def flops(self) -> float:
        """FLOPs of the products over the causal half of the scores."""
        shape = self.shape
        return self.products * 2.0 * shape.heads * shape.queries * shape.head_dim * shape.keys / 2


def kernel(program: Program, computation: str, instruction: Instruction) -> Kernel | None:
    """The attention kernel that an instruction runs; None for other instructions.

    Its first two large operands are the queries [.., H, S, K] and the keys [.., G, T, K]; JAX writes its settings into
    its metadata.
    """
    name = _NAME.match(instruction.name)
    if instruction.target != "tpu_custom_call" or name is None:
        return None
    phase, settings = name[1], instruction.text.replace("\\", "")
    suffix = "" if phase == "fwd" else f"_{phase}"
    blocks = [re.search(rf'"block_{side}{suffix}": (\d+)', settings) for side in ("q", "kv")]
    shapes = [program.computations[computation][name].shapes[0] for name in instruction.operands]
    queries, keys = [shape.dims for shape in shapes if len(shape.dims) >= 3 and shape.dtype[0] in "bf"][:2]
    # fused with dq, its first result is dq, once for each block of keys
    is_fused = phase == "dkv" and len(instruction.shapes[0].dims) > len(queries)
    return Kernel(
        phase=phase,
        products=PRODUCTS[phase] + is_fused,
        block=round(math.prod(int(block[1]) if block else 0 for block in blocks) ** 0.5),
        shape=splash_cycles.Shape(
            masked="segmented" in instruction.name,
            queries=queries[-2],
            keys=keys[-2],
            heads=math.prod(queries[:-2]),
            kv_heads=math.prod(keys[:-2]),
            head_dim=queries[-1],
        ),
    )


def kernels(program: Program) -> list[tuple[float, Kernel]]:
    """All attention kernels of a program, each with its number of executions."""
    return [
        (times, found)
        for computation, times, _ in program.executions
        for instruction in program.computations[computation].values()
        if instruction.opcode == "custom-call" and (found := kernel(program, computation, instruction))
    ]


def attention_flops(program: Program) -> float:
    """FLOPs of all attention kernels of a program."""
    return sum(times * found.flops for times, found in kernels(program))


def seconds(found: Kernel, topology: Topology) -> float:
    """Seconds of a kernel on a device, whose cores share its heads."""
    block = found.block or splash_cycles.DEFAULT_BLOCK
    cycles = splash_cycles.cycles(topology.chip.name, found.phase, block, found.shape)
    if cycles is None:
        return found.flops / topology.flops / UNKNOWN_EFFICIENCY
    ratio = found.products / PRODUCTS[found.phase]  # a fused backward kernel has more products
    return ratio * cycles / topology.chip.cores / topology.chip.clock
