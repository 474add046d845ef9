"""Smoothed BLEU-4."""

import math

from codellama_jax.evaluation.bleu import code_bleu4, natural_language_bleu


def test_equal_texts_score_one():
    assert math.isclose(natural_language_bleu("Returns the sum.", "returns the  sum."), 1.0)
    assert math.isclose(code_bleu4("return a[i] + 1", "return a [ i ]+1"), 1.0)


def test_of_an_empty_sentence_only_the_penalty_counts_as_in_the_published_script():
    assert natural_language_bleu("", "Returns the sum.") == math.exp(1 - 5)
    assert code_bleu4("", "return 1") == 0  # ours


def test_case_counts_in_code_only():
    assert natural_language_bleu("Sum of A", "sum of a") == natural_language_bleu("sum of a", "sum of a")
    assert code_bleu4("return A", "return a") < code_bleu4("return a", "return a")
