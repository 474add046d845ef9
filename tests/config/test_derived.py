"""Settings that are derived from others: steps of epochs, the intervals of evaluations and saves, the warm-up."""

import dataclasses

import pytest

from codellama_jax.config.derived import steps_of_epochs, with_steps
from codellama_jax.config.gin_files import load
from tests.config.recipe import message

ADAPT = ["INITIAL_CHECKPOINT=/m", "CODE_CORPUS=/c"]


def adapt(*bindings, size="local"):
    return load(["gin/adapt.gin", f"gin/models/{size}.gin"], [*ADAPT, *bindings]).resolve_training()


@pytest.mark.parametrize("size", ["local", "7b", "13b", "70b"])
def test_adapt_needs_a_checkpoint_and_code_and_nothing_else(size):
    config = adapt(size=size)
    assert (config.stage.steps, config.stage.epochs, config.corpus.held_out) == (0, 4.0, "newest")
    assert (config.evaluation.every, config.checkpoints.every, config.evaluation.final_benchmarks) == (0, 0, ())
    assert (config.fim.rate, config.fim.cut, config.filters.longest_bytes) == (0.9, "both", 1 << 20)
    assert config.tokenizer.model is None, "that of the checkpoint"
    assert config.stage.batch_size % config.data_loader.readers == 0
    loaded = load(["gin/adapt.gin", f"gin/models/{size}.gin"], [])
    text = message(loaded.resolve_training)
    assert "gin/adapt.gin" in text or "gin/published.gin" in text
    assert all(f"--gin.{name}=VALUE" in text for name in ("INITIAL_CHECKPOINT", "CODE_CORPUS"))


def test_steps_are_those_of_the_epochs_and_at_least_the_smallest_number():
    config = adapt("Stage.least_steps=40", "ADAPT_BATCH_TOKENS=4096", "ADAPT_EPOCHS=3.0")
    assert steps_of_epochs(config, 4096 * 100, 1.0) == 300
    assert steps_of_epochs(config, 4096 * 100 + 1, 1.0) == 301
    assert steps_of_epochs(config, 4096 * 100, 0.5) == 600, "half of each batch is of the stream"
    assert steps_of_epochs(config, 1, 1.0) == 40


def test_what_depends_on_the_steps_is_derived():
    config = with_steps(adapt("AdamW.warmup_steps=100"), 150)
    assert (config.stage.steps, config.stage.epochs) == (150, 0.0)
    assert (config.evaluation.every, config.checkpoints.every, config.adamw.warmup_steps) == (8, 8, 15)
    assert with_steps(adapt("AdamW.warmup_steps=100"), 5_000).adamw.warmup_steps == 100
    bound = with_steps(adapt("Evaluation.every=7", "Checkpoints.every=3"), 150)
    assert (bound.evaluation.every, bound.checkpoints.every) == (7, 3)
    code = load(["gin/code.gin"], [], default_size="local").resolve_training()
    assert with_steps(code, code.stage.steps) == dataclasses.replace(code)


@pytest.mark.parametrize(
    "bindings, expected",
    [
        (["Stage.steps=5"], "Stage.steps=5 and Stage.epochs=4 contradict each other"),
        (["ADAPT_EPOCHS=0.0"], "Stage.steps=0 must be above 0"),
        (["ADAPT_EPOCHS=-1.0"], "Stage.epochs=-1.0 must not be negative"),
        (["Checkpoints.keep_best=False"], "Checkpoints.keep_best=False removes"),
        (["INFILLING=False"], "Evaluation.infilling_cases=64 needs infilling ids"),
        (["Corpus.group_by_repository=True"], "Corpus.held_out='newest' divides the files"),
        (["Corpus.held_out=new"], "Corpus.held_out='new' must be 'hash' or 'newest'"),
        (["Evaluation.patience=-1"], "Evaluation.patience=-1 must not be negative"),
        (["Fim.line_share=2.0"], "Fim.line_share=2.0 must be between 0 and 1"),
    ],
)
def test_contradictions_are_refused_by_name(bindings, expected):
    assert expected in message(adapt, *bindings)
