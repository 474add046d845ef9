"""The comparison of a model before and after a stage: its metrics, and which intervals it gives them."""

import random

import pytest

from codellama_jax.evaluation.before_after import LEAST_FILES, Filled, changes, summary
from codellama_jax.evaluation.edit_similarity import edit_distance, edit_similarity


def table_distance(a: str, b: str) -> int:
    """The Levenshtein distance by its definition."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(row[-1] + 1, above[j] + 1, above[j - 1] + (x != y)))
    return row[-1]


def test_the_edit_distance_is_that_of_the_definition():
    rng = random.Random(0)
    for alphabet, longest in (("ab", 9), ("abcdé🙂\n ", 80)):
        for _ in range(400):
            a, b = ("".join(rng.choices(alphabet, k=rng.randrange(longest))) for _ in range(2))
            assert edit_distance(a, b) == table_distance(a, b)
    assert edit_similarity("", "") == 1 and edit_similarity("ab", "") == 0 and edit_similarity("abcd", "abxd") == 0.75


def filled(path: str, before: str, after: str, bits: tuple[float, float], corpus="held_out", kind="line") -> Filled:
    return Filled(corpus, kind, path, "    right()\n", (before, after), bits)


def by_metric(found):
    return {change.metric: change for change in found}


def test_the_metrics_of_holes():
    holes = [
        filled("a", "    wrong\n", "    right()", (24.0, 12.0)),
        filled("a", "    right()\n", "    right()  \n", (12.0, 12.0)),
        filled("b", "right()", "    right()\nmore", (36.0, 12.0)),
    ]
    found = by_metric(changes(holes))
    exact, bits = found["exact_match"], found["bits_per_byte"]
    assert (exact.before, exact.after) == (pytest.approx(1 / 3), pytest.approx(2 / 3)), "indentation counts"
    assert (bits.before, bits.after) == (pytest.approx(2.0), pytest.approx(1.0)), "12 bytes each"
    assert bits.difference.high < 0.001 and bits.difference.value == pytest.approx(-1.0)
    assert (exact.holes, exact.files, exact.unit) == (3, 2, "hole")
    assert found["edit_similarity"].after > found["edit_similarity"].before


def test_equal_models_have_an_interval_around_zero_that_is_not_a_point():
    holes = [filled(f"{n % 12}", "x", "x", (5.0, 5.0)) for n in range(40)]
    found = by_metric(changes(holes))
    assert found["exact_match"].difference.low < 0 < found["exact_match"].difference.high
    assert found["bits_per_byte"].difference.value == 0


def test_files_are_resampled_if_there_are_enough():
    """Holes of a file are alike: if one file alone differs, many holes of it say no more than one."""
    holes = [filled("other", "no", "no", (9.0, 9.0)) for _ in range(30)]
    holes = [filled(f"{n}", "no", "no", (9.0, 9.0)) for n in range(LEAST_FILES)] + holes
    holes += [filled("special", "no", "    right()", (9.0, 1.0)) for _ in range(30)]
    found = by_metric(changes(holes))
    assert found["exact_match"].unit == "file"
    assert found["exact_match"].difference.low == 0, "a resample without the file has no difference"
    few = by_metric(changes([hole for hole in holes if hole.path in ("other", "special")]))
    assert few["exact_match"].unit == "hole" and few["exact_match"].difference.low > 0.2


def test_each_corpus_and_kind_is_compared_and_summarized_in_a_line():
    holes = [
        filled(str(n), "x", "    right()", (9.0, 3.0), corpus, kind)
        for corpus in ("held_out", "general")
        for kind in ("line", "span")
        for n in range(4)
    ]
    found = changes(holes)
    assert [(change.corpus, change.kind) for change in found[::3]] == [
        *(("held_out", "line"), ("held_out", "span"), ("general", "line"), ("general", "span"))
    ]
    lines = summary(found)
    assert len(lines) == 2 and lines[0].startswith("held-out files: lines filled exactly 0.0% -> 100.0% (95% ")
    assert lines[1].startswith("general code: ") and "bits per byte 0.750 -> 0.250" in lines[1]
