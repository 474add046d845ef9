"""The table of kernel cycles: what it must have, and the choice of block sizes."""

import json
from pathlib import Path

import pytest

from codellama_jax.kernels import splash_cycles
from codellama_jax.planning.chips import CHIPS, Topology

SHAPE = splash_cycles.Shape(masked=False, queries=4096, keys=4096, heads=32, kv_heads=32, head_dim=128)
PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


def peak_cycles(chip, phase, queries, keys, heads):
    """Cycles of the products over the causal half at the peak of a core."""
    slice_ = Topology(chip, (1,) * chip.dims)
    return PRODUCTS[phase] * heads * queries * keys * 128 / (slice_.flops / chip.clock / chip.cores)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("phase", PRODUCTS)
def test_no_kernel_is_faster_than_the_peak_of_its_chip(chip, phase, masked):
    for length in (1024, 4096, 16_384, 131_072):
        for block in (256, 512, 1024):
            shape = SHAPE._replace(masked=masked, queries=length, keys=length)
            cycles = splash_cycles.cycles(chip.name, phase, block, shape)
            assert cycles >= peak_cycles(chip, phase, length, length, 32)


def test_the_table_has_every_generation():
    assert set(splash_cycles.GENERATIONS.values()) == set(CHIPS)


def test_cycles_are_linear_in_heads_and_shards_have_their_part():
    whole = splash_cycles.cycles("v5p", "fwd", 512, SHAPE)
    assert splash_cycles.cycles("v5p", "fwd", 512, SHAPE._replace(heads=64, kv_heads=8)) == 2 * whole
    shard = splash_cycles.cycles("v5p", "fwd", 512, SHAPE._replace(queries=1024))
    assert shard == pytest.approx(whole / 4)
    assert splash_cycles.cycles("v5p", "fwd", 512, SHAPE._replace(head_dim=256)) > 1.5 * whole
    assert splash_cycles.cycles("v9", "fwd", 512, SHAPE) is None


@pytest.mark.parametrize("kind", splash_cycles.GENERATIONS)
@pytest.mark.parametrize("phases", [splash_cycles.FORWARD, splash_cycles.BACKWARD])
@pytest.mark.parametrize("length", [4096, 16_384])
def test_the_fastest_block_has_the_fewest_cycles(kind, phases, length):
    generation = splash_cycles.GENERATIONS[kind]
    shape = SHAPE._replace(queries=length, keys=length)
    table = json.loads(Path(splash_cycles.__file__).with_suffix(".json").read_text())[generation]
    totals = {
        int(block): sum(splash_cycles.cycles(generation, phase, int(block), shape) for phase in phases)
        for block in table[phases[0]]
        if all(block in table[phase] for phase in phases)
    }
    assert totals[splash_cycles.fastest_block(kind, phases, shape)] == min(totals.values())


@pytest.mark.parametrize(
    "queries, keys, allowed", [(1536, 1536, {256, 512, 768}), (384, 384, {384, 128}), (640, 1280, {128, 640})]
)
def test_blocks_divide_the_queries_and_the_keys(queries, keys, allowed):
    shape = SHAPE._replace(queries=queries, keys=keys)
    assert splash_cycles.fastest_block("TPU v5", splash_cycles.FORWARD, shape) in allowed


def test_an_unknown_device_gets_the_default():
    assert splash_cycles.fastest_block("TPU v99", splash_cycles.FORWARD, SHAPE) == splash_cycles.DEFAULT_BLOCK
