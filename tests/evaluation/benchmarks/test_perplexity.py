"""Perplexity by the length of the context: log-probabilities of long texts, their buckets, RoPE variants, files."""

import dataclasses
import math
import threading

import numpy as np
import pytest

from codellama_jax.config import gin_files
from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.config.scored_benchmarks import Perplexity as Settings
from codellama_jax.errors import UserError
from codellama_jax.evaluation.benchmarks.perplexity import OWN, Perplexity
from codellama_jax.evaluation.packed_logprobs import packed, unpacked
from codellama_jax.evaluation.sample import Answer, Sample
from codellama_jax.evaluation.text_scoring import TextScorer
from codellama_jax.generation.engine import Engine
from tests.generation import generation_models as models

pytestmark = pytest.mark.compares_bits

SETTINGS = Settings(smallest_file=1_000, context=600, buckets=3)


@pytest.fixture(scope="module")
def scored():
    """A random model, ids of more than two chunks, its scorer and their log-probabilities."""
    llama = dataclasses.replace(models.SHAPES["long"], layers=1)
    weights = models.weights_of(models.random_params(llama), llama)
    ids = np.random.default_rng(0).integers(0, 320, 1_100).tolist()
    scorer = TextScorer(weights, llama, 320, 1_200)
    return llama, weights, ids, scorer, scorer.logprobs(ids)


def test_log_probabilities_are_those_of_the_engine_bit_for_bit(scored):
    llama, weights, ids, _, found = scored
    engine = Engine(weights, llama, Serving(slots=1, context=1_200, chunks=(128,)), 320)
    request = engine.submit(ids, Sampling(max_tokens=0, prompt_logprobs=True))
    while not request.finished:
        engine.step()
    expected = [entry.logprob for entry in request.prompt_logprobs if entry is not None]
    assert np.array_equal(found, np.array(expected, np.float32)) and len(found) == len(ids) - 1


def test_a_text_does_not_depend_on_those_before_it_and_shorter_ones_are_its_beginning(scored):
    *_, ids, scorer, found = scored
    assert np.array_equal(scorer.logprobs(ids[:600]), found[:599])
    assert np.array_equal(scorer.logprobs(ids), found)


def test_another_rope_is_the_same_as_a_model_that_has_it(scored):
    llama, weights, ids, scorer, found = scored
    other = dataclasses.replace(llama, rope_theta=1e4, rope_scale=0.25)
    expected = TextScorer(weights, other, 320, 700).logprobs(ids[:700])
    interpolated = scorer.logprobs(ids[:700], (1e4, 0.25))
    assert np.array_equal(interpolated, expected) and not np.array_equal(interpolated, found[:699])


def test_it_stops_between_chunks_and_refuses_texts_that_are_too_long(scored):
    *_, ids, scorer, _ = scored
    stop = threading.Event()
    stop.set()
    assert scorer.logprobs(ids, None, stop.is_set) is None
    with pytest.raises(ValueError, match="of 1201 tokens"):
        scorer.logprobs([1] * 1_201)


def test_records_have_the_log_probabilities_exactly(scored):
    *_, found = scored
    assert np.array_equal(unpacked(packed(found)), found)
    with pytest.raises(UserError, match="record of perplexity is damaged"):
        unpacked("not base64")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "perplexity" / "inner"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"file{number}.py").write_text("".join(f"value_{number}_{line} = {line}\n" for line in range(100)))
    (folder / "copy.py").write_bytes((folder / "file0.py").read_bytes())
    (folder / "small.py").write_text("x = 1\n")
    (folder / "binary.bin").write_bytes(b"\xff" * 2_000)
    return tmp_path


def test_files_are_chosen_by_size_and_content_up_to_the_wanted_tokens(data, small_tokenizer):
    problems = Perplexity(SETTINGS, small_tokenizer).problems(data)
    assert {problem.task_id for problem in problems} == {"inner/copy.py", "inner/file1.py", "inner/file2.py"}
    assert {(problem.input.tokens, problem.input.longest, problem.variant) for problem in problems} == {(600, 600, OWN)}
    fewer = Perplexity(dataclasses.replace(SETTINGS, tokens=900), small_tokenizer).problems(data)
    assert [problem.input.tokens for problem in fewer] == [600, 300]
    assert [problem.task_id for problem in fewer] == [problem.task_id for problem in problems[:2]]


def test_variants_are_pairs_of_base_and_scale(data, small_tokenizer):
    flag = ["Perplexity.variants=[(1e6, 1), (1e4, 0.25)]", "Perplexity.smallest_file=1000"]
    settings = gin_files.load([], flag, default_size="local").resolve(Settings).perplexity
    problems = Perplexity(settings, small_tokenizer).problems(data)
    assert len(problems) == 2 * 3
    assert {(problem.variant, problem.input.rope) for problem in problems} == {
        ("theta 1e+06, scale 1", (1e6, 1.0)),
        ("theta 10000, scale 0.25", (1e4, 0.25)),
    }
    for wrong in ((1e4,), (1.0, 1.0), (1e4, 4.0)):
        with pytest.raises(ValueError, match=r"Perplexity.variants has .* a scale above 0 and at most 1"):
            Settings(variants=(wrong,))


def test_losses_are_averaged_over_the_tokens_of_each_bucket():
    benchmark = Perplexity(SETTINGS)
    long = np.repeat(np.array([-1, -2, -3], np.float32), 200)
    samples = [
        Sample(str(task), 0, 0, "", "", "", None, "", OWN, scores=benchmark.judged(None, "", None, answer).scores)
        for task, answer in enumerate([Answer(packed(long)), Answer(packed(np.full(250, -5, np.float32)))])
    ]
    summary = benchmark.summary(samples)
    assert summary["context_lengths"] == [200, 400, 600]
    assert summary["tokens_by_context"] == [400, 250, 200]
    means = [(200 * 1 + 200 * 5) / 400, (200 * 2 + 50 * 5) / 250, 3]
    assert summary["perplexity_by_context"] == pytest.approx([math.exp(mean) for mean in means])
    assert summary["perplexity"] == pytest.approx(math.exp((1_200 + 1_250) / 850))


def test_what_is_missing_is_named(data, tmp_path, small_tokenizer):
    with pytest.raises(UserError, match=r"needs the model itself, --checkpoint=DIR"):
        Perplexity(SETTINGS).problems(data)
    with pytest.raises(UserError, match=r"gone is missing: Perplexity.folder names"):
        Perplexity(Settings(folder="gone"), small_tokenizer).problems(data)
    with pytest.raises(UserError, match="no text files of 50,000 bytes or more"):
        Perplexity(Settings(), small_tokenizer).problems(data)
