"""Arithmetic beside the compiler: docs/pods.md has what the compiler said of every size, stage and chip."""

import re

import pytest

from codellama_jax import plan
from codellama_jax.config import gin_files
from codellama_jax.config.gin_files import ROOT
from codellama_jax.planning import estimate
from codellama_jax.planning.chips import GiB, topology

ROW = re.compile(
    r"\| (\d+b) \| (\w+) \| (\S+) \| \d+ \| yes \| ([\d.]+) of \S+ \|(?:[^|]*\|){3} ([\d,]+) \| `?([^`|]*)`? \|"
)


def rows():
    for line in (ROOT / "docs/pods.md").read_text().splitlines():
        if found := ROW.fullmatch(line):
            size, stage, slice_, peak, hours, flags = found.groups()
            bindings = [flag.removeprefix("--gin.") for flag in flags.split()]
            loaded = gin_files.load([f"gin/{stage}.gin", f"gin/models/{size}.gin"], bindings)
            yield plan.shaping_config(loaded), topology(slice_), float(peak) * GiB, float(hours.replace(",", ""))


def test_memory_and_hours_are_near_the_compilers():
    off, cost = [], []
    for config, slice_, peak, hours in rows():
        off.append(estimate.peak_bytes(config, slice_) / peak)
        cost.append(estimate.chip_hours(config, slice_) / hours)
        assert estimate.fits(config, slice_)
    assert len(off) == 110
    assert min(off) > 0.94 and max(off) < 1.13
    assert min(cost) > 1, "they are the least that is possible"


@pytest.mark.parametrize(
    ("slice_", "fits"), [("v5p:2x2x1", False), ("v5p:2x2x2", False), ("v5p:2x4x4", True), ("v5e:4x4", False)]
)
def test_what_is_too_small(slice_, fits):
    """7B needs 16 bytes for each of 6.7e9 parameters, and four parts of its batch pass through 8 chips one by one."""
    loaded = gin_files.load(["gin/code.gin", "gin/models/7b.gin"], ["Stage.micro_batches=8"])
    assert estimate.fits(plan.shaping_config(loaded), topology(slice_)) == fits
