"""Names of slices, and specifications of TPU generations."""

import math

import pytest

from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.planning.chips import CHIPS, MAX_CHIPS, Topology, topology

# Cloud name, JAX name, chips, devices. The shapes are from the cloud's tables of slices.
NAMES = [
    ("v4-8", "v4:2x2x1", 4, 4),
    ("v4-128", "v4:4x4x4", 64, 64),
    ("v5p-16", "v5p:2x2x2", 8, 8),
    ("v5p-32", "v5p:2x2x4", 16, 16),
    ("v5p-64", "v5p:2x4x4", 32, 32),
    ("v5p-128", "v5p:4x4x4", 64, 64),
    ("v5p-512", "v5p:4x8x8", 256, 256),
    ("v5litepod-8", "v5e:2x4", 8, 8),
    ("v5litepod-256", "v5e:16x16", 256, 256),
    ("v6e-1", "v6e:1x1", 1, 1),
    ("v6e-256", "v6e:16x16", 256, 256),
    ("tpu7x-128", "tpu7x:4x4x4", 64, 128),
]


@pytest.mark.parametrize("cloud, name, chips, devices", NAMES)
def test_cloud_and_jax_names_give_the_same_slice(cloud, name, chips, devices):
    slice_ = topology(cloud)
    assert slice_ == topology(name) == topology(f" {name.upper()} ")
    assert (slice_.name, slice_.cloud_name, slice_.chips, slice_.devices) == (name, cloud, chips, devices)


def test_other_shapes_and_generation_names_are_accepted():
    assert topology("v5p:2x4x8").chips == 64
    assert topology("v5e-8") == topology("v5litepod-8"), "JAX's name of the generation is accepted in cloud names"


@pytest.mark.parametrize(
    "name, message",
    [
        ("", "v5p:4x4x4"),
        ("v5p", "v5p:4x4x4"),
        ("v5p:", "v5p:4x4x4"),
        ("v5p:4x4xfour", "v5p:4x4x4"),
        ("v5p-128 chips", "v5p-128"),
        ("h100:8", "v4, v5e, v5p, v6e, tpu7x"),
        ("v3:4x4", "v4, v5e, v5p, v6e, tpu7x"),
        ("v5p:16x16", "3 dimensions"),
        ("v5e:4x4x4", "2 dimensions"),
        ("v5p:0x4x4", "3 dimensions"),
        ("v5p-7", "two per chip"),
        ("v5p-96", "v5p:2x2x2, or use v5p-64 or v5p-128"),
        ("v6e-100", "v6e:4x4, or use v6e-64 or v6e-128"),
        ("v5pe:4x4x4", "did you mean v5p:4x4x4"),
        ("v5lite-64", "did you mean v5litepod-64"),
        ("v6e:32x32", "largest slice of v6e has 256"),
        ("v5p:1000x1000x1000", "largest slice"),
    ],
)
def test_invalid_slice_is_one_error_line(name, message):
    with pytest.raises(UserError, match=message) as caught:
        topology(name)
    assert caught.value.exit_code == EXIT_USAGE
    assert "\n" not in str(caught.value) and f"--topology={name}" in str(caught.value)


@pytest.mark.parametrize("name", CHIPS)
def test_peak_flops_match_clock_and_matrix_units(name):
    """Peak over clock is an integer number of 128 x 128 products. This detects a typing error in either."""
    chip = CHIPS[name]
    units = chip.flops / chip.devices / chip.clock / (2 * 128 * 128)
    assert abs(units - round(units)) < 0.02 and round(units) in (4, 8, 16)
    assert chip.hbm_bytes * chip.devices < 192 * 2**30 and chip.dims in (2, 3)
    assert set(MAX_CHIPS) == set(CHIPS) and all(chip.gke)


def test_larger_doubles_the_chips_up_to_the_largest_slice():
    slices, chips = [topology("v5e:4x4")], 16
    while (larger := slices[-1].larger()) is not None:
        slices.append(larger)
        assert larger.chips == (chips := chips * 2)
        assert max(larger.shape) <= 2 * min(larger.shape)
    assert slices[-1] == topology("v5e:16x16")


def test_send_bandwidth_counts_links_in_the_dimensions_of_the_group():
    v5p = topology("v5p:4x4x4")
    link = v5p.chip.link_bandwidth
    everywhere = [[0, x, y, z] for x in range(4) for y in range(4) for z in range(4)]
    assert v5p.send_bandwidth(everywhere) == 6 * link
    assert v5p.send_bandwidth([[0, x, 0, 0] for x in range(4)]) == 2 * link
    assert v5p.send_bandwidth([[0, 0, y, z] for y in range(4) for z in range(2)]) == 4 * link
    across = [[number, 0, 0, 0] for number in range(2)]
    assert topology("v5p:4x4x4", 2).send_bandwidth(across) == v5p.chip.network_bandwidth, "between slices"
    small = Topology(CHIPS["v5e"], (2, 2))
    assert small.send_bandwidth([[0, 0, 0, 0], [0, 1, 0, 0]]) == CHIPS["v5e"].link_bandwidth
    assert small.send_bandwidth([[0, x, y, 0] for x in range(2) for y in range(2)]) == 2 * CHIPS["v5e"].link_bandwidth
    both = topology("tpu7x:4x4x4")
    assert both.send_bandwidth(everywhere * 2) == 3 * both.chip.link_bandwidth, "two devices share a chip's links"
    assert math.isclose(both.flops * both.devices, both.chip.flops * both.chips)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("v5p:4x4x4", (True, True, True)),
        ("v5p:4x4x12", (True, True, True)),
        ("v5p:2x4x4", (False, False, False)),  # less than a cube
        ("v4:2x2x1", (False, False, False)),
        ("v6e:16x16", (True, True, False)),
        ("v5e:8x16", (False, True, False)),
        ("v6e:8x8", (False, False, False)),
    ],
)
def test_wrap_around_links_follow_from_the_shape(name, wrap):
    slice_ = topology(name)
    assert slice_.wrap == wrap
    assert slice_.options.get("wrap", (False,) * 3) == wrap
    assert slice_.options.keys() - {"wrap"} == slice_.chip.options.keys()
