"""The estimate compared with compiled steps: docs/pods.md lists their memory for every size, stage and chip."""

import re

import pytest

from codellama_jax.config import gin_files
from codellama_jax.config.gin_files import ROOT
from codellama_jax.planning import estimate
from codellama_jax.planning.chips import GiB, topology
from codellama_jax.planning.step_config import shaping_config

ROW = re.compile(
    r"\| (\d+b) \| (\w+) \| (\S+) \| \d+ \| yes \| ([\d.]+) of \S+ \|(?:[^|]*\|){3} ([\d,]+) \| `?([^`|]*)`? \|"
)


def rows():
    for line in (ROOT / "docs/pods.md").read_text().splitlines():
        if match := ROW.fullmatch(line):
            size, stage, slice_, peak, hours, flags = match.groups()
            bindings = [flag.removeprefix("--gin.") for flag in flags.split()]
            loaded = gin_files.load([f"gin/{stage}.gin", f"gin/models/{size}.gin"], bindings)
            yield shaping_config(loaded), topology(slice_), float(peak) * GiB, float(hours.replace(",", ""))


def test_memory_and_hours_are_close_to_the_compiled_ones():
    memory, cost = [], []
    for config, slice_, peak, hours in rows():
        memory.append(estimate.peak_bytes(config, slice_) / peak)
        cost.append(estimate.chip_hours(config, slice_) / hours)
        assert estimate.fits(config, slice_)
    assert len(memory) == 110
    assert min(memory) > 0.94 and max(memory) < 1.13
    assert min(cost) > 1, "the hours in the table are lower bounds"


@pytest.mark.parametrize(
    ("slice_", "fits"), [("v5p:2x2x1", False), ("v5p:2x2x2", False), ("v5p:2x4x4", True), ("v5e:4x4", False)]
)
def test_7b_fits_only_slices_with_enough_memory(slice_, fits):
    """7B needs 16 bytes for each of its 6.7e9 parameters, plus activations of one of eight micro-batches."""
    loaded = gin_files.load(["gin/code.gin", "gin/models/7b.gin"], ["Stage.micro_batches=8"])
    assert estimate.fits(shaping_config(loaded), topology(slice_)) == fits
