"""Counters: merging is commutative and associative, samples are bounded."""

import numpy as np

from tasks.curation.counters import Counters, histogram_bin, merge


def test_merging_does_not_depend_on_order_or_grouping() -> None:
    rng = np.random.default_rng(1)
    parts = []
    for _ in range(40):
        counters = Counters()
        for value in rng.integers(0, 10**9, 30).tolist():
            counters.add(f"{value % 5}", value)
            counters.add_sample("few", value, str(value))
            counters.add_row("all", value, None)
        parts.append(counters)
    total = merge(parts).to_json()
    halves = [merge(part) for part in (parts[::-1][:13], parts[::-1][13:])]
    assert merge(halves).to_json() == total == merge([Counters(), *parts]).to_json()
    assert Counters.from_json(total).to_json() == total and len(total["samples"]["few"]) == Counters.SAMPLE_SIZE


def test_histogram_bins_are_powers_of_two() -> None:
    assert [histogram_bin(n) for n in (0, 1, 2, 3, 4, 1023, 1024)] == [0, 1, 2, 2, 4, 512, 1024]
