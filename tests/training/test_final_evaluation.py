"""Benchmarks at the end of a stage: results of the harness; without a sandbox the stage ends, with a message."""

import gzip
import hashlib
import json
import logging
from types import SimpleNamespace

import jax
import pytest

from codellama_jax import sharding
from codellama_jax.config.data import Chat
from codellama_jax.config.evaluation import HumanEval
from codellama_jax.config.model import Llama
from codellama_jax.config.run import Config
from codellama_jax.config.training import Evaluation, Mesh, Stage
from codellama_jax.errors import UserError
from codellama_jax.training import final_evaluation
from codellama_jax.training.step import init_params

TASKS = 3


@pytest.fixture(scope="module")
def trainer(small_tokenizer, tmp_path_factory):
    """What the evaluation reads of a trainer: a tiny model with random parameters, and three tasks of our own."""
    data = tmp_path_factory.mktemp("data")
    rows = [
        {
            "task_id": f"HumanEval/{number}",
            "prompt": f"def f{number}():\n",
            "entry_point": f"f{number}",
            "canonical_solution": f"    return {number}\n",
            "test": f"def check(f):\n    assert f() == {number}\n",
        }
        for number in range(TASKS)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (data / "humaneval").mkdir()
    (data / "humaneval/HumanEval.jsonl.gz").write_bytes(gzip.compress(content))
    llama = Llama(16, 1, 2, 2, 16, small_tokenizer.rows, compute_dtype="float32", remat="none")
    config = Config(
        stage=Stage("code", "test", None, steps=1, batch_tokens=64, sequence_length=64),
        chat=Chat(),
        evaluation=Evaluation(benchmark_data=str(data), benchmarks=(), final_benchmarks="humaneval"),
        humaneval=HumanEval(max_tokens=4, sha256=hashlib.sha256(content).hexdigest()),
    )
    mesh = sharding.make_mesh(Mesh(), devices=jax.devices()[:1])
    answers = []
    with jax.set_mesh(mesh):
        yield SimpleNamespace(
            config=config,
            llama=llama,
            mesh=mesh,
            data=SimpleNamespace(tokenizer=small_tokenizer),
            params=init_params(llama, 0),
            lineage=None,
            watchdog=SimpleNamespace(reset=lambda: answers.append(None)),
            logger=logging.getLogger("test"),
            answers=answers,
        )


def test_results_are_written_beside_the_checkpoints(trainer, tmp_path):
    assert final_evaluation.evaluate_stage(trainer, tmp_path / "run/code") == {}
    folder = tmp_path / "run/code/evaluation"
    results = json.loads((folder / "results.json").read_text())["humaneval"]
    assert (results["tasks"], results["samples"], results["model"]) == (TASKS, TASKS, "run-code")
    assert len(trainer.answers) == TASKS, "the watchdog is reset after each"
    assert len((folder / "samples/humaneval.jsonl").read_text().splitlines()) == TASKS


def test_without_a_sandbox_the_stage_ends_with_a_message(trainer, tmp_path, monkeypatch, caplog):
    def refused():
        raise UserError("no sandbox: bwrap: not permitted; it needs Linux with user namespaces")

    monkeypatch.setattr(final_evaluation, "Pool", refused)
    caplog.set_level(logging.INFO, "test")
    reason = "no sandbox: bwrap: not permitted"
    assert final_evaluation.evaluate_stage(trainer, tmp_path / "code") == {"humaneval": reason}
    (line,) = caplog.messages
    assert line.startswith(f"humaneval: not measured ({reason}); ") and f"--checkpoint={tmp_path / 'code'}" in line
    assert not (tmp_path / "code").exists()
