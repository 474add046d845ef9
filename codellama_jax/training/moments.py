"""Storage of the optimizer's moments between steps: as float32 or bfloat16, or in 8 bits.

In 8 bits, the values of a block of at most 64 share a scale, the largest magnitude among them, and each is a code on a
logarithmic scale below it: the idea of block-wise 8-bit optimizers (arXiv 2110.02861), with levels of constant ratio.
Values are rounded at random to one of the two nearest levels, so that on average nothing is lost: with rounding to the
nearest, a moment that changes by less than half a level at each step would never change. The random bits are a function
of the step and the place, so a resumed run is the same, on any mesh.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codellama_jax.config.training import MOMENT_BLOCK


class Codes(NamedTuple):
    """A tree of moments in 8 bits.

    Attributes:
        codes: like the parameters; int8 for moments of both signs, uint8 for others. 0 is zero.
        scales: like the parameters, with a float32 for each block of the last axis.
    """

    codes: Any
    scales: Any


class Levels(NamedTuple):
    """The values that codes stand for: code `top` is the scale, and each one below is smaller by the same ratio.

    Attributes:
        top: the largest code.
        per_octave: number of codes in which the value doubles.
        dtype: of the codes.
        to_zero: whether values below the lowest level are rounded at random to it or 0. Otherwise they become the
            lowest level: a second moment of 0 beside a first one that is not would make an update of any size.
    """

    top: int
    per_octave: int
    dtype: str
    to_zero: bool


SIGNED = Levels(127, 8, "int8", to_zero=True)  # 9% from level to level, 2 ** 15.75 between the largest and smallest
POSITIVE = Levels(255, 11, "uint8", to_zero=False)  # 6.5%, and 2 ** 23.1


def zeros(like: Any, dtype: str, levels: Levels) -> Any:
    """What `stored` keeps of moments that are all 0, with the shapes of a tree."""
    if dtype != "int8":
        return jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), like)
    codes = jax.tree.map(lambda x: jnp.zeros(x.shape, levels.dtype), like)
    return Codes(codes, jax.tree.map(lambda x: jnp.zeros(_blocks(x.shape)[:-1], jnp.float32), like))


def stored(moments: Any, dtype: str, levels: Levels, bits: Any) -> Any:
    """A tree of float32 moments as it is kept.

    Args:
        moments: the tree.
        dtype: "float32", "bfloat16", or "int8" for Codes.
        levels: of the codes.
        bits: uniform uint16 for each value, for the rounding.
    """
    if dtype != "int8":
        return jax.tree.map(lambda x: x.astype(dtype), moments)
    scales = jax.tree.map(_scales, moments)
    return Codes(jax.tree.map(lambda x, scale, bit: _encode(x, scale, bit, levels), moments, scales, bits), scales)


def loaded(kept: Any, levels: Levels) -> Any:
    """What `stored` keeps, as float32."""
    if isinstance(kept, Codes):
        return jax.tree.map(lambda codes, scales: _decode(codes, scales, levels), kept.codes, kept.scales)
    return jax.tree.map(lambda x: x.astype(jnp.float32), kept)


def random_bits(like: Any, step: jax.Array) -> Any:
    """A uniform uint32 for each value of a tree, different at each step."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), len(leaves))
    drawn = [jax.random.bits(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def block_size(length: int) -> int:
    """The largest divisor of the last axis that is at most MOMENT_BLOCK."""
    return next(size for size in range(min(length, MOMENT_BLOCK), 0, -1) if length % size == 0)


def _blocks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape whose last axis is cut into blocks."""
    size = block_size(shape[-1])
    return *shape[:-1], shape[-1] // size, size


def _scales(x: jax.Array) -> jax.Array:
    return jnp.abs(x).reshape(_blocks(x.shape)).max(-1)


def _spread(scales: jax.Array, length: int) -> jax.Array:
    """The scale of each value."""
    return jnp.repeat(scales, length // scales.shape[-1], axis=-1, total_repeat_length=length)


def _encode(x: jax.Array, scales: jax.Array, bits: jax.Array, levels: Levels) -> jax.Array:
    scale = _spread(scales, x.shape[-1])
    ratio = jnp.abs(x) / jnp.where(scale > 0, scale, 1)
    chance = (bits.astype(jnp.float32) + 0.5) / 2**16
    lowest = 2.0 ** ((1 - levels.top) / levels.per_octave)
    below = jnp.clip(jnp.floor(levels.top + levels.per_octave * jnp.log2(jnp.maximum(ratio, lowest))), 1, levels.top)
    up = (ratio * jnp.exp2((levels.top - below) / levels.per_octave) - 1) / (2 ** (1 / levels.per_octave) - 1)
    code = jnp.minimum(below + (chance < up), levels.top)
    small = (chance < ratio / lowest) if levels.to_zero else ratio > 0
    code = jnp.where(ratio < lowest, small, code)
    return (jnp.sign(x) * code if levels.dtype == "int8" else code).astype(levels.dtype)


def _decode(codes: jax.Array, scales: jax.Array, levels: Levels) -> jax.Array:
    code = codes.astype(jnp.float32)
    value = jnp.exp2((jnp.abs(code) - levels.top) / levels.per_octave) * _spread(scales, codes.shape[-1])
    return jnp.sign(code) * value
