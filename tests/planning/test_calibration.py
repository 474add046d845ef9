"""The ratios that plans are compared with are those of the benchmark's result file."""

import re

import pytest

from codellama_jax.config.gin_files import ROOT
from codellama_jax.planning import calibration
from codellama_jax.planning.chips import CHIPS


def test_the_ratios_are_those_of_the_result_file():
    text = (ROOT / "benchmarks" / "calibration.md").read_text(encoding="utf-8")
    for ratios in calibration.RATIOS.values():
        for ratio in ratios:
            assert re.search(rf"(\| {ratio:.3f} \|)|(ratio {ratio:.3f}\n)", text), ratio


@pytest.mark.parametrize("chip", CHIPS)
def test_a_generation_without_runs_has_those_of_all(chip):
    every = [ratio for ratios in calibration.RATIOS.values() for ratio in ratios]
    assert set(calibration.ratios(chip)) <= set(every)
    assert chip in calibration.RATIOS or sorted(calibration.ratios(chip)) == sorted(every)


def test_the_sentence_names_every_generation():
    sentence = calibration.accuracy()
    assert all(chip in sentence for chip in calibration.RATIOS) and "0.87 and 1.06 on v6e" in sentence
