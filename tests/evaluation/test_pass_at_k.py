"""pass@k against exact fractions and enumeration; confidence intervals."""

import itertools
import math
import random
from fractions import Fraction

import pytest

from codellama_jax.evaluation.pass_at_k import interval, pass_at_k


def test_pass_at_k_is_the_published_estimate_on_random_counts():
    random.seed(0)
    for _ in range(500):
        n = random.randint(1, 300)
        c, k = random.randint(0, n), random.randint(1, n)
        exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-12, abs=1e-13)


def test_pass_at_k_is_the_share_of_all_choices_of_k_samples():
    for n in range(1, 7):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            choices = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, choices)) / len(choices), abs=1e-14)


def test_fewer_than_k_samples_have_no_pass_at_k():
    with pytest.raises(ValueError, match=r"pass@10 of 1 passed of 9"):
        pass_at_k(9, 1, 10)


def test_the_interval_holds_at_the_ends_and_in_the_middle():
    assert interval([0.0] * 164) == (0.0, pytest.approx(0.0229, abs=1e-4))
    low, high = interval([1.0] * 164)
    assert low == pytest.approx(0.9771, abs=1e-4) and high == pytest.approx(1.0)
    # Wilson's ends are the shares from which the observed one is just as far as 1.96 of their standard errors
    for end in interval([1.0] * 55 + [0.0] * 109):
        assert abs(55 / 164 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 164), rel=1e-6)


def test_the_interval_of_values_that_rounding_makes_equal():
    """pass@k of many samples is 1 up to rounding: their mean is 1, and their variance is not 0."""
    assert interval([1.0] * 163 + [1 - 2.0**-53], 20) == pytest.approx(interval([1.0] * 164))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    random.seed(1)
    for samples in (1, 10):
        covered = 0
        for _ in range(400):
            truths = [random.betavariate(0.4, 0.8) for _ in range(100)]
            values = [sum(random.random() < truth for _ in range(samples)) / samples for truth in truths]
            low, high = interval(values, 100 * samples)
            covered += low <= 1 / 3 <= high
        assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize("tasks", [1, 20, 164, 500, 5_815])
def test_an_interval_of_nothing_and_of_everything_ends_at_0_and_1(tasks: int):
    assert interval([0.0] * tasks)[0] == 0 and 0 < interval([0.0] * tasks)[1] < 1
    assert interval([1.0] * tasks)[1] == 1 and 0 < interval([1.0] * tasks)[0] < 1
