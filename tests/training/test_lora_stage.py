"""A stage that trains adapters: exact resume, small checkpoints, and the model that they belong to."""

import dataclasses
import json
import logging
import shutil

import jax
import numpy as np
import pytest

from codellama_jax.config.lora import Lora
from codellama_jax.config.training import Checkpoints
from codellama_jax.conversion import formats, verify
from codellama_jax.errors import UserError
from codellama_jax.model import lora as adapters
from codellama_jax.runtime import checksums
from codellama_jax.runtime.signals import StopSignals
from codellama_jax.training.loss_spikes import LossSpike
from codellama_jax.training.metrics.prefixed_logger import PrefixedLogger
from codellama_jax.training.trainer import Trainer
from codellama_jax.training.watchdog import Watchdog
from tests.training import test_trainer
from tests.training.test_trainer import CONFIG, STEPS, RandomData, batches_of, records, traced

mesh, make_trainer, uninterrupted = test_trainer.mesh, test_trainer.make_trainer, test_trainer.uninterrupted  # fixtures
LORA = Lora(rank=2, dropout=0.25, base_dtype="float32")


@pytest.fixture
def base(tmp_path, uninterrupted):
    """The folder of a stage whose model the adapters belong to, which a test may change."""
    shutil.copytree(uninterrupted, tmp_path / "base")
    return tmp_path / "base/code"


@pytest.fixture
def start(tmp_path, base, mesh, small_tokenizer):
    """A function that starts or resumes a stage with adapters in a folder."""

    def make(name="run", lora=LORA, initial=None):
        run_dir = tmp_path / name
        run_dir.mkdir(exist_ok=True)
        checkpoints = Checkpoints(every=4, initial=str(initial or base))
        config = dataclasses.replace(CONFIG, lora=lora, checkpoints=checkpoints)
        logger = PrefixedLogger(logging.getLogger("test"), "code", enabled=True)
        data = RandomData()
        data.tokenizer = small_tokenizer
        return Trainer(
            config,
            run_dir,
            CONFIG.llama,
            mesh,
            data,
            batches_of,
            stop=StopSignals(),
            watchdog=Watchdog(0, run_dir / "stacks.txt"),
            lock=None,
            logger=logger,
        )

    return make


def test_a_stopped_stage_resumes_exactly(tmp_path, start, monkeypatch):
    assert start("whole").run() == STEPS
    stopped = start()
    events = traced(monkeypatch, stopped)
    monkeypatch.setattr(type(stopped.stop), "requested", property(lambda _: "dispatch 4" in events))
    assert stopped.run() == 4
    monkeypatch.undo()
    resumed = start()
    assert resumed.resumed_step == 4 and resumed.run() == STEPS
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert records(tmp_path / "run", name) == records(tmp_path / "whole", name)


def test_validation_before_the_first_step_is_that_of_the_model(tmp_path, start, uninterrupted):
    start().run()
    first = records(tmp_path / "run", "evaluations.jsonl")[0]
    last = [line for line in records(uninterrupted, "evaluations.jsonl") if line["kind"] == "validation"][-1]
    assert (first["step"], first["loss"]) == (0, last["loss"])
    validated = [
        line["loss"] for line in records(tmp_path / "run", "evaluations.jsonl") if line["kind"] == "validation"
    ]
    assert len(set(validated)) == len(validated), "evaluations see the adapters"


def test_a_checkpoint_has_adapters_only_and_opens_as_the_model(tmp_path, start, base):
    trainer = start()
    trainer.run()
    folder = tmp_path / "run/code/checkpoints/8"
    metadata = json.loads((folder / "metadata/metadata").read_text())
    assert metadata["adapter"]["base"] == str(base / "checkpoints/8")
    assert metadata["adapter"]["digest"] == checksums.digest(base / "checkpoints/8") == metadata["parent"]["digest"]
    source = formats.open_checkpoint(tmp_path / "run/code").source
    merged = jax.device_get(adapters.merge_all(trainer.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), verify.load(source), merged)
    assert trainer.state.params.keys() == {"blocks"}


def test_a_stage_of_all_parameters_starts_from_the_sum(tmp_path, start):
    first = start()
    first.run()
    merged = jax.device_get(adapters.merge_all(first.params))
    following = start("next", Lora(), tmp_path / "run/code")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), jax.device_get(following.state.params), merged
    )
    again = start("again", Lora(rank=1, targets="wq"), tmp_path / "run/code")
    assert again.state.params["blocks"].keys() == {"wq_a", "wq_b"}
    assert again.run() == STEPS


def test_a_changed_or_missing_model_is_refused_when_the_stage_resumes(start, base, monkeypatch):
    stopped = start()
    events = traced(monkeypatch, stopped)
    monkeypatch.setattr(type(stopped.stop), "requested", property(lambda _: "dispatch 4" in events))
    stopped.run()
    monkeypatch.undo()
    folder = base / "checkpoints/8"
    (folder / "note").write_text("changed")
    checksums.write(folder)
    with pytest.raises(UserError, match=r"checkpoints/8 has changed since the adapters in .*run/code/checkpoints/4"):
        start()
    (folder / "note").unlink()
    checksums.write(folder)
    assert start().resumed_step == 4
    base.rename(base.with_name("elsewhere"))
    with pytest.raises(UserError, match=r"of the model .*base/code/checkpoints/8, which does not exist: put it back"):
        start()


def test_a_spike_rolls_adapters_back(tmp_path, start, monkeypatch):
    trainer = start()
    spikes = []

    def check(step, batch, metrics):
        if step == 6 and not spikes:
            spikes.append(LossSpike(step, 9.0, 3.0, batch))
            raise spikes[0]

    monkeypatch.setattr(trainer.spikes, "check", check)
    assert trainer.run() == STEPS
    assert [line["step"] for line in records(tmp_path / "run")] == list(range(1, STEPS + 1))


def test_random_parameters_have_no_adapters(start):
    with pytest.raises(UserError, match=r"Lora.rank=2 trains adapters of a model, but code starts from random"):
        start(initial="scratch")
