"""The progress line: the running pass@1 with its interval, and the remaining time."""

import logging

from codellama_jax.evaluation import progress
from codellama_jax.evaluation.progress import Progress
from codellama_jax.evaluation.sample import Sample


def test_the_running_pass_at_1_is_the_mean_over_tasks_with_its_interval(monkeypatch, caplog):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    shown = Progress("humaneval", 40)
    samples = [Sample(f"t{n // 2}", n % 2, 0, "", "", "", n % 4 == 0, "", variant="psm") for n in range(40)]
    shown.add(samples[0])  # of an earlier run
    shown.start()
    with caplog.at_level(logging.INFO, "codellama_jax"):
        for sample in samples[1:]:
            shown.add(sample)
    shown.close()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 39 and lines[0].startswith("humaneval: 2/40 samples  psm pass@1 50.0% (")
    assert lines[-1].startswith("humaneval: 40/40 samples  psm pass@1 25.0% (") and "left" not in lines[-1]
    assert [" left" in line for line in lines[:12]] == [False] * 9 + [True] * 3


def test_benchmarks_that_only_have_scores_show_their_count(caplog):
    shown = Progress("perplexity", 1)
    shown.start()
    with caplog.at_level(logging.INFO, "codellama_jax"):
        shown.add(Sample("t", 0, 0, "", "", "", None, "", scores={"x": 1.0}))
    assert "perplexity: 1/1 samples" in caplog.text
