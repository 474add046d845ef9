"""Comparisons of two runs: paired by task, refused where the runs differ in more than the model."""

import json
from pathlib import Path

import pytest

from codellama_jax import evaluate
from codellama_jax.errors import EXIT_USAGE, UserError
from codellama_jax.evaluation.comparison import Run, as_json, compare, read_runs
from codellama_jax.evaluation.paired import of_single_samples
from tests.evaluation.evaluated_runs import sample, write_run

FIRST = {"t/1": True, "t/2": True, "t/3": False, "t/4": False, "t/10": True}
SECOND = {"t/1": True, "t/2": False, "t/3": True, "t/4": False, "t/10": True}


def runs(*folders: Path) -> list[Run]:
    return read_runs(folders)


@pytest.fixture
def pair(tmp_path: Path) -> list[Run]:
    return runs(
        write_run(tmp_path / "a", "humaneval", (sample(task, passed=passed) for task, passed in FIRST.items())),
        write_run(tmp_path / "b", "humaneval", (sample(task, passed=passed) for task, passed in SECOND.items())),
    )


def test_single_samples_are_compared_by_mcnemars_test(pair: list[Run]):
    (found,) = compare(*pair)
    (metric,) = found.metrics
    assert (found.name, found.variant, found.tasks, metric.name) == ("humaneval", "", 5, "pass@1")
    assert (metric.first, metric.second) == (0.6, 0.6)
    assert metric.difference == of_single_samples(list(FIRST.values()), list(SECOND.values()))
    assert found.solved == {(True, True): 2, (True, False): 1, (False, True): 1, (False, False): 1}
    changed = {one.task_id: (one.first, one.second, [entry.passed for entry in one.samples]) for one in found.changed}
    assert changed == {"t/2": (1, 0, [True, False]), "t/3": (0, 1, [False, True])}


def test_several_samples_are_compared_by_a_bootstrap(tmp_path: Path):
    """pass@1 and pass@5 of 6 samples; a task with one more sample of a run counts as the others."""
    counts = {"a": (6, 0), "b": (3, 5), "c": (0, 0), "d": (1, 6)}
    folders = [
        write_run(
            tmp_path / name,
            "mbpp",
            (
                sample(task, i, i < passed[side])
                for task, passed in counts.items()
                for i in range(6 + (task == "c") * side)
            ),
        )
        for side, name in enumerate("ab")
    ]
    (found,) = compare(*runs(*folders))
    assert [metric.name for metric in found.metrics] == ["pass@1", "pass@5"]
    assert [metric.difference.method for metric in found.metrics] == ["bootstrap"] * 2
    assert found.metrics[0].first == pytest.approx((1 + 0.5 + 0 + 1 / 6) / 4)
    assert found.metrics[1].first == pytest.approx((1 + 1 + 0 + 5 / 6) / 4)
    assert [one.task_id for one in found.changed] == ["a", "d", "b"]


def test_equal_runs_are_not_known_to_be_equal(tmp_path: Path):
    """A bootstrap of equal results would give the interval from 0 to 0."""
    folders = [write_run(tmp_path / name, "mbpp", (sample("t", i, i < 1) for i in range(2))) for name in "ab"]
    (metric,) = compare(*runs(*folders))[0].metrics
    assert metric.difference.low < 0 < metric.difference.high


def test_scores_and_perplexity_are_compared(tmp_path: Path):
    scores = [{"bleu": 0.5, "toxic/group": 1.0}, {"bleu": 0.7}]
    folders = [
        write_run(tmp_path / name, "docstring", [sample(task, passed=None, scores=scores[side]) for task in "xyz"])
        for side, name in enumerate("ab")
    ]
    nats = [
        {"nats/10": 20.0, "tokens/10": 10.0, "nats/20": 10.0, "tokens/20": 5.0},
        {"nats/10": 15.0, "tokens/10": 15.0},
    ]
    for folder, found in zip(folders, nats, strict=True):
        write_run(folder, "perplexity", [sample(task, passed=None, scores=found) for task in "xyz"])
    bleu, perplexity = (found.metrics for found in compare(*runs(*folders)))
    assert [metric.name for metric in bleu] == ["bleu"]
    assert (bleu[0].first, bleu[0].second, bleu[0].difference.value) == pytest.approx((0.5, 0.7, 0.2))
    assert perplexity[0].name == "perplexity"
    assert (perplexity[0].first, perplexity[0].second) == pytest.approx((7.389056, 2.718282))


def test_variants_are_compared_apart_and_other_tasks_are_counted(tmp_path: Path):
    folders = [
        write_run(
            tmp_path / name,
            "infilling_single_line",
            [sample(str(task), variant=order) for order in ("psm", "spm")[: 2 - side] for task in range(3 + 2 * side)],
        )
        for side, name in enumerate("ab")
    ]
    (found,) = compare(*runs(*folders))
    assert (found.variant, found.tasks, found.first_only, found.second_only) == ("psm", 3, 0, 2)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"problems": "b"}, 'problems is "a" and "b"'),
        ({"settings": {"max_tokens": 64}}, "max_tokens is 512 and 64"),
        ({"settings": {"max_tokens": 512, "stop": ["x"]}}, r'stop is null and \["x"\]'),
    ],
)
def test_runs_that_differ_in_more_than_the_model_are_refused(tmp_path: Path, changes: dict, reason: str):
    folders = [
        write_run(tmp_path / "a", "mbpp", [sample("t")]),
        write_run(tmp_path / "b", "mbpp", [sample("t")], **changes),
    ]
    with pytest.raises(UserError, match=f"cannot be compared, because they differ in more than the model: {reason}"):
        compare(*runs(*folders))


def test_runs_of_other_models_are_compared(tmp_path: Path):
    identity = {"model": "other", "weights": "1", "dtype": "float32", "context": "9"}
    folders = [
        write_run(tmp_path / "a", "mbpp", [sample("t")]),
        write_run(tmp_path / "b", "mbpp", [sample("t")], **identity),
    ]
    assert compare(*runs(*folders))


def test_what_cannot_be_compared_is_named(tmp_path: Path, pair: list[Run]):
    other = write_run(tmp_path / "c", "mbpp", [sample("t")])
    with pytest.raises(UserError, match="there is no benchmark to compare"):
        compare(pair[0], *runs(other))
    with pytest.raises(UserError, match="has no results of mbpp: it has humaneval"):
        compare(*pair, ["mbpp"])
    write_run(other, "humaneval", [sample("another task")])
    with pytest.raises(UserError, match="no task in common"):
        compare(pair[0], *runs(other))
    with pytest.raises(UserError, match="does not exist: --compare names --out folders"):
        runs(tmp_path / "nothing", other)
    (other / "results.json").write_text("[]")
    with pytest.raises(UserError, match="is damaged"):
        runs(other)


def test_the_command_compares(tmp_path: Path, pair: list[Run], capsys: pytest.CaptureFixture[str]):
    a, b = (str(run.path) for run in pair)
    assert evaluate.main([f"--compare={a},{b}", f"--out={tmp_path / 'c'}"]) == 0
    output = capsys.readouterr().out
    assert "humaneval pass@1: 60% -> 60%, +0 points" in output and "p 1 (5 tasks)" in output
    stored = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert stored == [json.loads(json.dumps(as_json(*pair, compare(*pair))))]
    assert (tmp_path / "c" / "comparison.html").exists()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--compare={a}"], "names two or more --out folders"),
        (["--compare={a},{a}"], "names a folder twice"),
        (["--compare={a},{b}", "--limit=3"], "leave out --limit"),
        (["--compare={a},{b}", "--slots=16"], "leave out --slots"),
        (["--compare={a},{b}", "--gin.MBPP.shots=1"], "leave out --gin flags"),
        (["--compare={a},{b}", "--benchmarks=mbp"], "did you mean mbpp?"),
        (["--canonical"], "--benchmarks and --data must be given"),
    ],
)
def test_wrong_flags_are_refused(tmp_path: Path, pair: list[Run], capsys, flags: list[str], message: str):
    folders = {"a": pair[0].path, "b": pair[1].path}
    flags = [flag.format(**folders) for flag in flags]
    assert evaluate.main([*flags, f"--out={tmp_path / 'c'}"]) == EXIT_USAGE
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()
