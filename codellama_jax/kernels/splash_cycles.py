"""Cycles of JAX's splash kernels on each TPU generation, and the fastest block size.

XLA has no estimate of the cycles of a kernel. splash_cycles.json has them, counted in the instructions that the TPU
compiler generates (benchmarks/splash_cycles.py), for causal attention with heads of 128 channels and square blocks:

    {generation: {phase: {block size: {"step", "block", "row"}}}}

A kernel runs a step for each block of queries x keys, above the diagonal too; `block` is added for blocks on and below
the diagonal, `row` for each row of blocks. Phases are "fwd", "dq" and "dkv", and with segment ids "fwd_masked" etc.
"""

import functools
import json
from pathlib import Path
from typing import NamedTuple

GENERATIONS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e", "TPU7x": "tpu7x"}
FORWARD, BACKWARD = ("fwd",), ("dq", "dkv")
DEFAULT_BLOCK = 512  # of a generation that is not in the table


@functools.cache
def _table() -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def divisor(limit: int, size: int) -> int:
    """The largest block of at most `limit` that divides `size` and that the kernel supports."""
    return max(b for b in range(min(limit, size), 0, -1) if size % b == 0 and (b % 128 == 0 or b == size))


class Shape(NamedTuple):
    """Causal attention on a device.

    Attributes:
        masked: whether the kernel has segment ids.
        queries, keys: their numbers. With fewer queries than keys, the queries are a balanced shard.
        heads, kv_heads: their numbers, times that of sequences.
        head_dim: channels of a head.
    """

    masked: bool
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int


def cycles(generation: str, phase: str, block: int, shape: Shape) -> float | None:
    """Cycles of a kernel on one core; None if the table does not have the generation or phase.

    A block size that is not in the table has the cycles of the nearest one, scaled by its area and length.

    Args:
        generation: a name of GENERATIONS' values.
        phase: "fwd", "dq" or "dkv".
        block: number of queries and of keys in a block.
        shape: what the kernel computes.
    """
    entries = _entries(generation, phase, shape)
    if not entries:
        return None
    nearest = min(entries, key=lambda size: abs(int(size) - block))
    ratio, counted = block / int(nearest), entries[nearest]
    rows, columns = shape.queries / block, shape.keys / block
    below = columns * (columns + 1) / 2 * shape.queries / shape.keys  # number of blocks on and below the diagonal
    steps = shape.heads * rows * columns * counted["step"]
    starts = (shape.kv_heads * columns if phase == "dkv" else shape.heads * rows) * counted["row"] * ratio
    return steps + starts + shape.heads * below * counted["block"] * ratio**2 * shape.head_dim / 128


def fastest_block(device_kind: str, phases: tuple[str, ...], shape: Shape) -> int:
    """The block size with the fewest cycles in these phases together; DEFAULT_BLOCK if the table does not have them.

    Args:
        device_kind: as in jax.Device.
        phases: FORWARD or BACKWARD.
        shape: what the kernels compute.
    """
    generation = GENERATIONS.get(device_kind, "")
    known = set.intersection(*(set(_entries(generation, phase, shape)) for phase in phases))
    fitting = [divisor(int(size), shape.queries) for size in known]
    fitting = [block for block, size in zip(fitting, known, strict=True) if block == divisor(int(size), shape.keys)]
    return min(
        sorted(fitting),
        key=lambda block: sum(cycles(generation, phase, block, shape) or 0.0 for phase in phases),
        default=DEFAULT_BLOCK,
    )


def _entries(generation: str, phase: str, shape: Shape) -> dict[str, dict[str, int]]:
    """The table of a kernel, by block size; empty if there is none."""
    return _table().get(generation, {}).get(phase + "_masked" * shape.masked, {})
