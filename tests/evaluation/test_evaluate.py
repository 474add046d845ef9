"""The command: python -m codellama_jax.evaluate."""

import json

import pytest

from codellama_jax import evaluate
from codellama_jax.config.language_benchmarks import APPS
from codellama_jax.config.scored_benchmarks import SCORED
from codellama_jax.evaluation.table import BENCHMARKS


@pytest.fixture
def run(capsys, shared_data, tmp_path):
    def command(*arguments: object, code: int = 0) -> str:
        found = evaluate.main([f"--data={shared_data}", f"--out={tmp_path}/out", *map(str, arguments)])
        output = capsys.readouterr()
        assert found == code, output
        if code:
            line = output.err.strip().splitlines()[-1]
            assert "error: " in line and "Traceback" not in output.err
        return output.err if code else output.out

    return command


def test_a_checkpoint_is_evaluated_rescored_and_not_asked_again(run, tmp_path, evaluated_checkpoint, rows_of):
    checkpoint = evaluated_checkpoint
    flags = ("--benchmarks=humaneval,infilling_random_span_light", "--limit=2", "--samples=2")
    flags += ("--gin.HumanEval.max_tokens=6", "--gin.HumanEval.temperature=0.7")
    flags += ("--gin.HumanEvalInfilling.max_tokens=6",)
    out = run(f"--checkpoint={checkpoint}", "--slots=3", *flags)
    assert "humaneval: pass@1 0.0% (0.0 to 65.8) (2 tasks, 4 samples)" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["humaneval"]["settings"]["temperature"] == 0.7 and results["humaneval"]["model"] == "import"
    assert (results["humaneval"]["tasks"], results["humaneval"]["samples"]) == (2, 4)
    assert list(results["infilling_random_span_light"]["variants"]) == ["psm", "spm"]
    rows = rows_of(tmp_path / "out" / "samples" / "humaneval.jsonl")
    assert len(rows) == 4 and len({row["raw"] for row in rows}) > 2
    assert all({"task_id", "prompt", "completion", "passed", "reason"} <= row.keys() for row in rows)
    [first, *_] = rows_of(tmp_path / "out" / "samples" / "infilling_random_span_light.jsonl")
    assert first["input"]["order"] == "psm" and first["prompt"] and first["input"]["suffix"]
    report = (tmp_path / "out" / "report.html").read_text()
    assert f"checkpoint {checkpoint}" in report and "2 of its 164 tasks" in report
    assert (tmp_path / "out" / "tasks" / "infilling_random_span_light-1.html").exists()

    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("out/**/*.json*"))}
    run(f"--checkpoint={checkpoint}", "--slots=3", *flags)
    assert {path: path.read_bytes() for path in before} == before

    run("--rescore", *flags)
    for name in ("humaneval", "infilling_random_span_light"):
        rescored = rows_of(tmp_path / "out" / "rescored" / "samples" / f"{name}.jsonl")
        assert rescored == rows_of(tmp_path / "out" / "samples" / f"{name}.jsonl")
    assert json.loads((tmp_path / "out" / "rescored" / "results.json").read_text()) == results
    run("--rescore", "--benchmarks=humaneval", "--gin.HumanEval.prompts=('stripped',)", code=1)

    with (tmp_path / "out" / "samples" / "humaneval.jsonl").open("a") as file:
        file.write("{nonsense\n")
    assert "humaneval.jsonl:5 is damaged (it is not JSON)" in run("--rescore", *flags, code=1)


def test_canonical_solutions_of_every_benchmark_pass(run, tmp_path):
    # those that run nothing, and APPS, have hand-made data: test_scored_benchmarks.py, test_apps.py; those that count
    # tokens need a tokenizer: test_exercises_keys.py
    kinds = {name: kind for name, kind in BENCHMARKS.items() if kind.settings_class not in (*SCORED, APPS)}
    kinds = {name: kind for name, kind in kinds.items() if not kind.needs_tokenizer}
    names = [name for name, kind in kinds.items() if kind.canonical is not evaluate.Benchmark.canonical]
    interpreted = "--gin.HumanEvalX.languages=('python', 'js')"
    output = run("--canonical", f"--benchmarks={','.join(names)}", "--limit=2", interpreted)
    assert "humaneval_x: pass@1 100.0%, the average of python" in output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {name: found["pass@1"] for name, found in results.items()} == dict.fromkeys(names, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--benchmarks=humaneval"], "one of the arguments --checkpoint --endpoint --rescore --canonical", 2),
        (["--canonical", "--benchmarks=humanevl"], "no benchmark 'humanevl': did you mean humaneval?", 2),
        (["--canonical", "--benchmarks=,"], "--benchmarks names none; they are humaneval", 2),
        (["--canonical", "--benchmarks=humaneval", "--data=/no"], "/no/humaneval/HumanEval.jsonl.gz is missing", 1),
        (["--canonical", "--benchmarks=humaneval", "--gin.HumanEval.sample=2"], "did you mean HumanEval.samples", 2),
        (["--canonical", "--benchmarks=humaneval", "--gin.HumanEval.top_p=2"], "top_p=2.0 must be above 0", 2),
        (["--canonical", "--benchmarks=mbpp", "--samples=2", "--gin.MBPP.temperature=0"], "would be equal", 2),
        (["--canonical", "--benchmarks=humaneval", "--limit=0"], "must be a number, at least 1", 2),
        (["--canonical", "--benchmarks=humaneval", "--shard=3/2"], "must be I/N with I from 1 to N", 2),
        (["--canonical", "--benchmarks=humaneval", "--dtype=float32"], "--dtype is of the model in a checkpoint", 2),
        (["--canonical", "--benchmarks=humaneval", "--slots=16"], "--slots is of the model in a checkpoint", 2),
        (["--canonical", "--benchmarks=humaneval", "--model=x"], "it needs --endpoint", 2),
        (["--canonical", "--benchmarks=humaneval", "--out=gs://a/b"], "gs://a/b must be a local folder", 2),
        (["--rescore", "--benchmarks=humaneval"], "humaneval.jsonl does not exist: there is nothing to rescore", 1),
        (["--endpoint=http://127.0.0.1:9", "--benchmarks=santacoder_fim", "--gin.Endpoints.attempts=1"], "refused", 1),
        (["--endpoint=127.0.0.1:9", "--benchmarks=santacoder_fim"], "must begin with http:// or https://", 2),
        (["--checkpoint=/nowhere", "--benchmarks=santacoder_fim"], "/nowhere", 1),
        (["--canonical", "--benchmarks=humaneval", "--out=/dev/null"], "/dev/null is not a folder: choose another", 2),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(run, arguments, message, code):
    assert message in run(*arguments, code=code)
