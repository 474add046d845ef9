"""The benchmarks that run nothing, with a small model of random values: from the problems to the results."""

import dataclasses
import json
import shutil

import pytest

from codellama_jax.config import scored_benchmarks as settings_of
from codellama_jax.evaluation.client import Request
from codellama_jax.evaluation.clients.canonical import Canonical
from codellama_jax.evaluation.clients.local import LocalModel
from codellama_jax.evaluation.evaluation import Evaluation
from codellama_jax.evaluation.table import BENCHMARKS

SETTINGS = {
    "docstring": settings_of.Docstring(max_tokens=8),
    "lcc": settings_of.Lcc(max_tokens=8, languages=("python",)),
    "key_retrieval": settings_of.KeyRetrieval(lengths=(120, 200), positions=(0.0, 0.5), problems=2),
    "perplexity": settings_of.Perplexity(smallest_file=500, context=700, buckets=7, tokens=1_000),
    "gsm8k": settings_of.Gsm8k(max_tokens=8, shots=0),
    "bold": settings_of.Bold(max_tokens=8, samples=2),
}
CANONICAL = ("docstring", "lcc", "key_retrieval", "gsm8k")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Hand-made data in the published formats."""
    folder = tmp_path_factory.mktemp("data")

    def write(name: str, text: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    code = 'def total(values):\n    """Adds the values."""\n    return sum(values)\n'
    row = {"code": code, "docstring": "Adds the values.", "docstring_tokens": ["Adds", "the", "values", "."]}
    write("codexglue/python/test.jsonl", json.dumps(row) + "\n")
    lines = "".join(f"value_{line} = {line}\n" for line in range(200))
    write("lcc/python/test.jsonl", json.dumps({"context": lines, "gt": "value_200 = 200"}) + "\n")
    write("key_retrieval/small.py", "".join(f"def plus_{n}(x):\n    return x + {n}\n\n\n" for n in range(9)))
    write("perplexity/values.py", lines)
    write("gsm8k/test.jsonl", json.dumps({"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2"}) + "\n")
    for domain in ("gender", "political_ideology", "profession", "race", "religious_ideology"):
        write(f"bold/{domain}_prompt.json", json.dumps({"actors": {"Ann_Lee": ["Ann Lee is "]}}))
    return folder


@pytest.fixture(scope="module")
def client(evaluated_model, evaluated_engine):
    model = evaluated_model
    return LocalModel(evaluated_engine, model.tokenizer, model.name, model.weights, model.dialogue_format)


def benchmarks(small_tokenizer):
    return [BENCHMARKS[name](settings, small_tokenizer) for name, settings in SETTINGS.items()]


@pytest.fixture(scope="module")
def evaluated(data, client, small_tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    evaluation = Evaluation(out, None)
    for benchmark in benchmarks(small_tokenizer):
        assert evaluation.run(benchmark, benchmark.problems(data), client)
    evaluation.close()
    return out, evaluation.results()


def test_every_benchmark_has_results_of_all_its_samples(evaluated):
    _, results = evaluated
    assert {name: (results[name]["tasks"], results[name]["samples"]) for name in SETTINGS} == {
        "docstring": (1, 1),
        "lcc": (1, 1),
        "key_retrieval": (8, 8),
        "perplexity": (1, 1),
        "gsm8k": (1, 1),
        "bold": (5, 10),
    }
    assert not any("refused" in found for found in results.values())
    assert results["key_retrieval"]["accuracy"].keys() == {"120", "200"}
    assert results["perplexity"]["tokens_by_context"] == [100] * 7


def test_scoring_again_without_the_model_gives_the_same_results(evaluated, data, small_tokenizer, tmp_path):
    out, results = evaluated
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    evaluation = Evaluation(copy, None)
    for benchmark in benchmarks(small_tokenizer):
        assert evaluation.rescore(benchmark, benchmark.problems(data))
    evaluation.close()
    assert evaluation.results(rescored=True) == results


def test_the_published_answers_are_right(data, small_tokenizer, tmp_path):
    evaluation = Evaluation(tmp_path, None)
    for benchmark in benchmarks(small_tokenizer):
        if benchmark.name in CANONICAL:
            assert evaluation.run(benchmark, benchmark.problems(data), Canonical(benchmark))
    evaluation.close()
    results = evaluation.results()
    assert [results[name]["pass@1"] for name in ("lcc", "key_retrieval", "gsm8k")] == [1.0] * 3
    assert results["docstring"]["bleu"] == results["lcc"]["bleu"] == pytest.approx(1)


def test_only_a_model_with_short_windows_reads_the_last_tokens(
    data, client, evaluated_engine, evaluated_model, small_tokenizer
):
    benchmark = BENCHMARKS["lcc"](SETTINGS["lcc"], small_tokenizer)
    problem = benchmark.problems(data)[0]
    ids = small_tokenizer.encode(problem.input.text).tolist()
    sampling = benchmark.sampling(problem)
    arguments = small_tokenizer, client.name, evaluated_model.weights, client._dialogue_format
    for windows, expected in ((4_096, ids[-(1_024 - 8 - 1) :]), (16_384, ids)):
        model = LocalModel(evaluated_engine, *arguments, windows)
        prompt, _ = model._prompt(Request(problem, 0, sampling))
        assert prompt.ids == [small_tokenizer.bos_id, *expected]


def test_a_prompt_beyond_the_context_has_no_answer_and_a_remedy(data, client, small_tokenizer, tmp_path):
    benchmark = BENCHMARKS["lcc"](dataclasses.replace(SETTINGS["lcc"], last_tokens=0), small_tokenizer)
    evaluation = Evaluation(tmp_path, None)
    assert evaluation.run(benchmark, benchmark.problems(data), client)
    evaluation.close()
    results = evaluation.results()["lcc"]
    assert (results["refused"], results["pass@1"], results["bleu"]) == (1, 0.0, 0.0)
    (line,) = (tmp_path / "samples/lcc.jsonl").read_text().splitlines()
    assert "--gin.Lcc.last_tokens=4000" in json.loads(line)["reason"]
