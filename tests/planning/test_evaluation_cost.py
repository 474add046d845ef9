"""The planned cost of evaluations during a stage: tokens, FLOPs and share of the time."""

import json
from pathlib import Path

import pytest
from fake_compiler import FLAGS, FakeCompiler

from codellama_jax import plan
from codellama_jax.config.exercise_benchmarks import EXERCISES
from codellama_jax.config.run import Config
from codellama_jax.config.training import DEFAULT_BENCHMARKS, Evaluation
from codellama_jax.evaluation import gold
from codellama_jax.planning import planner
from codellama_jax.planning.evaluation_cost import POSITIONS, windows
from codellama_jax.tokenizer import Tokenizer
from codellama_jax.training.passages import batch_shape, packed, passages

STEP = ["--topology=v5p:4x4x4", "--gin.Stage.micro_batches=2"]
MEASURED = [*STEP, "--gin.Evaluation.benchmark_data=/data"]


@pytest.fixture
def printed(monkeypatch, capsys):
    """Runs plan with a step of 12 seconds and an evaluation batch of 12 seconds; returns what it prints."""
    monkeypatch.setattr(planner, "Compiler", FakeCompiler)
    monkeypatch.setattr(plan, "require_compiler", lambda: None)

    def run(*arguments: str) -> str:
        assert plan.main([*FLAGS, *arguments]) == 0
        return str(capsys.readouterr().out)

    return run


def test_validation_takes_at_most_a_third_of_as_many_steps(printed):
    result = json.loads(printed(*STEP, "--json"))
    cost = result["evaluation"]
    assert (cost["every"], cost["interval_seconds"], cost["benchmarks"]) == (1_000, 12_000, None)
    assert cost["validation"]["seconds"] == pytest.approx(8 * 12 / 3)
    assert cost["validation"]["flops"] == pytest.approx(8 * result["model_flops"] / 3)
    assert cost["share"] == pytest.approx(32 / 12_032) and cost["benchmarks_share"] == 0


def test_benchmarks_are_counted_with_their_padding(printed):
    result = json.loads(printed(*MEASURED, "--json"))
    cost = result["evaluation"]
    # one batch of five windows for each of 64 chips
    assert windows(DEFAULT_BENCHMARKS, True, 4_096) == 257
    assert (cost["benchmarks"]["batches"], cost["benchmarks"]["tokens"]) == (1, 5 * 64 * 4_096)
    per_token = result["model_flops"] / 4_194_304 / 3
    assert cost["benchmarks"]["flops"] == pytest.approx(per_token * 5 * 64 * 4_096)
    assert cost["benchmarks"]["seconds"] == 12
    assert cost["share"] == pytest.approx(44 / 12_044) and cost["benchmarks_share"] == pytest.approx(12 / 12_044)
    single = ["--gin.Evaluation.benchmarks=infilling_single_line", "--gin.Evaluation.every=100"]
    cost = json.loads(printed(*MEASURED, *single, "--json", "--no_estimate"))["evaluation"]
    assert (cost["interval_seconds"], cost["benchmarks"]["seconds"]) == (900, 9)
    without = [*single, "--gin.Tokenizer.infilling=False"]
    assert json.loads(printed(*MEASURED, *without, "--json"))["evaluation"]["benchmarks"]["batches"] == 1


def test_the_table_shows_interval_tokens_and_share(printed):
    out = printed(*MEASURED)
    assert "EVALUATION" in out and "every 1,000 steps, which take 3.33 h" in out
    assert "benchmarks: 1,310,720 tokens, 1.87e+16 FLOPs, 12.00 s" in out
    assert "0.37% of the time of the stage, of which benchmarks 0.100%: humaneval, mbpp, infilling_single_line" in out
    assert max(map(len, out.splitlines())) <= 120
    assert "EVALUATION" not in printed(*MEASURED, "--forward")


@pytest.mark.parametrize(
    ("names", "curves"), [((*DEFAULT_BENCHMARKS, "infilling_random_span_light"), 6), (EXERCISES, 3)]
)
def test_positions_are_those_of_the_benchmarks(
    shared_data: Path, llama_tokenizer: Tokenizer, names: tuple[str, ...], curves: int
):
    evaluation = Evaluation(benchmark_data=str(shared_data), benchmarks=names)
    texts = gold.encoded(gold.read(Config(evaluation=evaluation)), llama_tokenizer, 4_096)
    counted = dict.fromkeys((text.benchmark for text in texts), 0)
    for text in texts:
        counted[text.benchmark] += len(text.prompt) + len(text.gold) - 1
    orders = {f"{name}{order}": POSITIONS[name] for name in names for order in ("", "/psm", "/spm")}
    assert counted == {curve: orders[curve] for curve in counted} and len(counted) == curves
    for length in (4_096, 16_384):
        found = [passage for text in texts for passage in passages(text.prompt, text.gold, 0, length)]
        assert len(packed(found, length)) <= windows(names, True, length)


def test_batches_are_large_with_little_padding():
    for sizes, shape in {(257, 256, 64): (5, 64), (1, 256, 64): (1, 64), (150, 4, 1): (38, 4)}.items():
        assert batch_shape(*sizes) == shape
    for count in range(1, 200):
        batches, rows = batch_shape(count, 32, 4)
        assert rows % 4 == 0 and rows <= 32 and count <= batches * rows <= max(1.25 * count, count + 3)
