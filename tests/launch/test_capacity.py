"""The check that stages fit a slice, and the slice that the error recommends."""

import dataclasses

import pytest

from codellama_jax.errors import UserError
from codellama_jax.planning.chips import topology
from launch import capacity
from launch.capacity import Estimate
from tests.launch.jobs import job


def test_error_names_the_smallest_slice_that_fits(monkeypatch):
    """With calculated estimates, as on a machine without libtpu."""
    monkeypatch.setattr(capacity.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        capacity.check_slice([job("code")], topology("v5p:2x2x2"))
    assert "does not fit v5p:2x2x2" in str(caught.value) and "--topology=v5p:4x4x4 (v5p-128)" in str(caught.value)
    with pytest.raises(UserError, match="no slice of v6e fits with the present settings"):
        small = job("code")
        llama = dataclasses.replace(small.config.llama, layers=4096)
        large = dataclasses.replace(small, config=dataclasses.replace(small.config, llama=llama))
        capacity.check_slice([large], topology("v6e-64"))
    [estimate] = capacity.check_slice([job()], topology("v5p-128"))
    assert estimate.fits and 225 < estimate.chip_hours < 400, "the lower bound from the compiler is 225"


def test_slices_that_are_far_too_small_are_not_compiled():
    compiled = []

    def estimator(config, slice_):
        compiled.append(slice_.slice_name)
        return Estimate(2**37, slice_.chips >= 128, 1.0, "compiled")

    with pytest.raises(UserError, match=r"--topology=v5p:4x4x8 \(v5p-256\)"):
        capacity.check_slice([job()], topology("v5p-16"), estimator)
    assert compiled == ["v5p:2x2x2", "v5p:2x4x4", "v5p:4x4x4", "v5p:4x4x8"], "not 2x2x1, not 2x2x4"
