"""Gold texts: the prompts that evaluate generates from, and what is cut where they do not fit a window."""

import dataclasses

import pytest

from codellama_jax.config.evaluation import MBPP
from codellama_jax.config.run import Config
from codellama_jax.config.training import Evaluation
from codellama_jax.errors import UserError
from codellama_jax.evaluation import gold
from codellama_jax.evaluation.gold import GoldProblem
from codellama_jax.evaluation.problem import Completion, Infilling
from codellama_jax.generation import prompts
from codellama_jax.generation.stopping import TokenTexts
from codellama_jax.tokenizer import SentencePieceTokenizer

NAMES = ("humaneval", "mbpp", "infilling_random_span_light")


@pytest.fixture(scope="module")
def config(shared_data):
    return Config(evaluation=Evaluation(benchmark_data=str(shared_data), benchmarks=NAMES))


@pytest.fixture(scope="module")
def problems(config):
    return gold.read(config)


def test_prompts_and_answers_are_those_of_evaluate(problems, small_tokenizer):
    counts = {name: sum(problem.benchmark == name for problem in problems) for name in ("humaneval", "mbpp")}
    assert counts == {"humaneval": 164, "mbpp": 500} and len(problems) == 664 + 2 * 164
    chosen, texts = problems[::60], TokenTexts(small_tokenizer)
    for problem, found in zip(chosen, gold.encoded(chosen, small_tokenizer, 8_192), strict=True):
        match problem.input:
            case Completion(text):
                expected = prompts.complete(small_tokenizer, texts, text, healing=False)
            case Infilling(prefix, suffix, order):
                expected = prompts.infill(small_tokenizer, texts, prefix, suffix, order, healing=False)
                assert found.benchmark == f"infilling_random_span_light/{order}"
        assert list(found.prompt) == expected.ids and not found.shortened
        assert small_tokenizer.decode_continuation(found.gold) == problem.gold
        assert found.nbytes == len(problem.gold.encode())
    assert problems[0].gold.startswith("    for ") and "[DONE]" not in problems[164].gold


def test_what_does_not_fit_is_cut_and_keeps_the_ids_around_it(small_tokenizer):
    text = "".join(f"value_{n} = {n}\n" for n in range(99))
    hole = [
        GoldProblem(f"infilling_single_line/{order}", Infilling(text, text, order), "x = 1\n")
        for order in ("psm", "spm")
    ]
    found = gold.encoded([GoldProblem("humaneval", Completion(text), "x = 1\n"), *hole], small_tokenizer, 64)
    ends = [prompt.tolist() for prompt in (small_tokenizer.encode(text), small_tokenizer.encode_continuation(text))]
    before = len(found[1].prompt) - 4
    for each in found:
        assert each.shortened and len(each.prompt) + len(each.gold) == 65 and each.prompt[0] == small_tokenizer.bos_id
    assert found[0].prompt[1:] == ends[0][-len(found[0].prompt) + 1 :]
    marks = (small_tokenizer.prefix_id, small_tokenizer.suffix_id, small_tokenizer.middle_id)
    kept = before - before // 4  # a quarter for the suffix
    psm = [marks[0], *ends[0][-kept:], marks[1], *ends[1][: before // 4], marks[2]]
    spm = [marks[0], marks[1], *ends[1][: before // 4], marks[2], *ends[0][-kept:]]
    assert found[1].prompt[1:] == psm and found[2].prompt[1:] == spm


def test_infilling_is_left_out_with_a_message_if_the_tokenizer_cannot(config, problems, small_tokenizer):
    plain = SentencePieceTokenizer(small_tokenizer.model, infilling=False)
    texts = gold.encoded(problems[-400:], plain, 256)
    assert {text.benchmark for text in texts} == {"mbpp"}
    lines = gold.lines(config, texts)
    assert lines[0].startswith("every evaluation measures bits per byte of mbpp: ")
    assert "of 72 prompts of benchmarks do not fit" in lines[1]
    assert lines[-1] == "infilling_random_span_light is not measured: the tokenizer has no infilling ids"
    assert gold.lines(Config(evaluation=Evaluation()), []) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"benchmark_data": "/nowhere"},
            r"/nowhere/humaneval/HumanEval.jsonl.gz is missing: .*Evaluation.benchmark_data",
        ),
        ({"benchmarks": (), "final_benchmarks": "humanevl"}, "no benchmark 'humanevl': .*humaneval, mbpp"),
        ({"benchmarks": (), "benchmark_data": "/nowhere", "final_benchmarks": "mbpp"}, r"mbpp/mbpp.jsonl is missing"),
    ],
)
def test_bad_input_is_named(config, changes, message):
    with pytest.raises(UserError, match=message):
        gold.read(Config(evaluation=dataclasses.replace(config.evaluation, **changes)))


def test_settings_of_benchmarks_apply(config, shared_data):
    with pytest.raises(UserError, match=r"mbpp.jsonl is damaged or of another version"):
        gold.read(dataclasses.replace(config, mbpp=MBPP(sha256="0")))
    with pytest.raises(UserError, match="cannot measure mbpp as dialogues"):
        gold.read(dataclasses.replace(config, mbpp=MBPP(prompt="instruct")))
