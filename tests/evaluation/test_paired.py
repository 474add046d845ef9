"""Paired statistics, against enumeration of all cases and values computed by hand."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from codellama_jax.evaluation import paired
from codellama_jax.evaluation.paired import bootstrap, mcnemar, of_single_samples


@pytest.mark.parametrize("changed", range(10))
def test_mcnemar_equals_the_enumeration_of_all_outcomes(changed: int):
    """p: the share of all assignments of the changed tasks to the runs that are at least as unequal."""
    for first_only in range(changed + 1):
        second_only = changed - first_only
        unequal = abs(first_only - second_only)
        sides = itertools.product((-1, 1), repeat=changed)
        extreme = Fraction(sum(abs(sum(side)) >= unequal for side in sides), 2**changed)
        assert mcnemar(first_only, second_only) == pytest.approx(float(extreme), rel=1e-12)


def test_mcnemar_of_numbers_that_no_float_holds():
    assert mcnemar(3000, 3000) == 1.0
    assert mcnemar(np.int64(0), np.int64(1000)) == pytest.approx(2.0**-999, rel=1e-12)
    assert 0 < mcnemar(2500, 3000) < 1e-10


def test_the_interval_of_single_samples_by_hand():
    """10 tasks: 4 solved by both, 1 only by the first, 3 only by the second, 2 by none."""
    first = [True] * 5 + [False] * 5
    second = [True] * 4 + [False] + [True] * 3 + [False] * 2
    found = of_single_samples(first, second)
    # b = 1.5 and c = 3.5 of 12: (3.5 - 1.5) / 12 with the standard error sqrt(5 - 4 / 12) / 12
    half = 1.959963984540054 * math.sqrt(5 - 4 / 12) / 12
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((2 / 12 - half, 2 / 12 + half))
    assert found.p == pytest.approx(2 * (1 + 4) / 16)  # 0 or 1 heads of 4, on either side
    assert found.method == "mcnemar"


def test_exchanged_runs_have_the_opposite_difference():
    rng = np.random.default_rng(5)
    first, second = (list(map(bool, rng.integers(2, size=50))) for _ in range(2))
    there, back = of_single_samples(first, second), of_single_samples(second, first)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.p == back.p


def test_equal_single_samples_have_an_interval_around_0():
    found = of_single_samples([True, False], [True, False])
    assert found.value == 0 and found.p == 1
    assert found.low == -found.high < 0


def test_the_bootstrap_equals_the_enumeration_of_all_resamples():
    """With five tasks there are 3,125 equally likely resamples."""
    first = np.array([0.1, 0.5, 0.9, 0.0, 0.3])[:, None]
    second = np.array([0.25, 0.45, 1.0, 0.2, 0.33])[:, None]
    found = bootstrap(first, second)
    differences = (second - first)[:, 0]
    means = sorted(differences[list(drawn)].mean() for drawn in itertools.product(range(5), repeat=5))
    assert found.value == pytest.approx(differences.mean())
    # 10,000 resamples find a percentile to about 0.2% of the distribution
    assert means[round(0.020 * len(means))] <= found.low <= means[round(0.030 * len(means))]
    assert means[round(0.970 * len(means))] <= found.high <= means[round(0.980 * len(means))]
    opposite = sum(mean <= 0 for mean in means) / len(means)
    assert found.p == pytest.approx(2 * opposite, abs=0.006)


def test_the_bootstrap_of_a_ratio():
    """The statistic is computed from the means of a resample, as perplexity is from those of nats and tokens."""
    first, second = np.array([[2.0, 1.0], [30.0, 10.0]]), np.array([[1.0, 1.0], [20.0, 10.0]])
    found = bootstrap(first, second, lambda means: means[:, 0] / means[:, 1])
    assert found.value == pytest.approx(21 / 11 - 32 / 11)
    # both tasks, or one of them twice: their differences are -1 with 21/11 - 32/11 = -1 too
    assert (found.low, found.high) == pytest.approx((-1, -1))


def test_the_bootstrap_is_the_same_every_time_and_in_parts(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    first, second = rng.random((40, 1)), rng.random((40, 1))
    found = bootstrap(first, second)
    assert bootstrap(first, second) == found
    assert found.low < found.value < found.high
    monkeypatch.setattr(paired, "_CELLS", 40 * 1000)
    assert bootstrap(first, second) == found
