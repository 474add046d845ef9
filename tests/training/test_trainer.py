"""The training loop over random batches: the order of its actions, resuming, stopping and rolling back."""

import dataclasses
import json
import logging
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from codellama_jax import sharding
from codellama_jax.config.data import Packing
from codellama_jax.config.model import Llama
from codellama_jax.config.run import Config
from codellama_jax.config.training import AdamW, Checkpoints, Evaluation, LossSpikes, Mesh, Monitoring, Stage
from codellama_jax.errors import UserError
from codellama_jax.evaluation.gold import GoldText
from codellama_jax.runtime.signals import StopSignals
from codellama_jax.training.loss_spikes import LossSpike
from codellama_jax.training.metrics.prefixed_logger import PrefixedLogger
from codellama_jax.training.trainer import Trainer
from codellama_jax.training.watchdog import Watchdog

STEPS = 8
CONFIG = Config(
    stage=Stage("code", "test", None, steps=STEPS, batch_tokens=32, sequence_length=16),
    llama=Llama(dim=16, layers=1, heads=2, kv_heads=2, ffn_dim=16, vocab_size=32, compute_dtype="float32"),
    adamw=AdamW(peak_learning_rate=1e-2, warmup_steps=2),
    mesh=Mesh(),
    packing=Packing(),
    evaluation=Evaluation(every=3, batches=1, context_windows=1, context_factor=2, samples=0),
    checkpoints=Checkpoints(every=4),
    loss_spikes=LossSpikes(),
    monitoring=Monitoring(),
)


class RandomLoader:
    """Batches of random tokens; the state is the number of batches so far."""

    def __init__(self, state, version):
        self.number, self.version = state or 0, version

    def fingerprint(self):
        return self.version

    def metrics(self, batch):
        return {"batch": batch.state}

    def left_out_lines(self):
        return []

    def next_batch(self):
        tokens = np.random.default_rng(self.number).integers(0, 32, (2, 17)).astype(np.int32)
        zeros = np.zeros((2, 16), np.int32)
        arrays = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segment_ids": zeros, "stream_ids": zeros}
        arrays |= {"positions": zeros + np.arange(16, dtype=np.int32), "loss_weights": np.ones((2, 16), np.float32)}
        self.number += 1
        return SimpleNamespace(arrays=arrays, documents=[("code", f"{self.number}.py")], state=self.number)


class RandomData:
    """The data side of a stage, without tasks."""

    def __init__(self, version="1"):
        self.tokenizer, self.stream_names, self.version = None, ("code",), version

    def stream(self, split, state=None):
        return RandomLoader(state, self.version)

    def stream_state(self, saved):
        return saved["batch"]

    def saved(self, state, fingerprint):
        return {"batch": state, "fingerprint": fingerprint}

    def validation_batches(self):
        return [RandomLoader(1000, self.version).next_batch().arrays]

    def long_windows(self, length):
        return np.zeros((1, length + 1), np.int32)

    def excerpts(self, count):
        return []


def batches_of(loader):
    while True:
        yield loader.next_batch()


@pytest.fixture(scope="module")
def mesh():
    mesh = sharding.make_mesh(CONFIG.mesh, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        yield mesh


@pytest.fixture(scope="module")
def make_trainer(mesh):
    def make(run_dir, data=None, gold=(), config=CONFIG):
        logger = PrefixedLogger(logging.getLogger("test"), "code", enabled=True)
        watchdog = Watchdog(0, run_dir / "stacks.txt")
        return Trainer(
            config,
            run_dir,
            CONFIG.llama,
            mesh,
            data or RandomData(),
            batches_of,
            stop=StopSignals(),
            watchdog=watchdog,
            lock=None,
            logger=logger,
            gold=gold,
        )

    return make


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, make_trainer):
    """The folder of a run of all steps; tests do not change it."""
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    assert make_trainer(run_dir).run() == STEPS
    return run_dir


def records(run_dir, name="metrics.jsonl"):
    lines = [json.loads(line) for line in (run_dir / "code" / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key and key != "time"} for line in lines]


def traced(monkeypatch, trainer):
    """A list to which the trainer's actions are appended, in order."""
    events = []

    def trace(owner, method, name):
        call = getattr(owner, method)

        def traced_call(*args, **keywords):
            events.append(name(*args))
            return call(*args, **keywords)

        monkeypatch.setattr(owner, method, traced_call)

    dispatched = iter(range(trainer.start_step + 1, STEPS + 1))
    trace(trainer, "train_step", lambda *_: f"dispatch {next(dispatched)}")
    trace(trainer.log, "record_step", lambda step, *_: f"log {step}")
    trace(trainer, "_validate", lambda step: f"validate {step}")
    trace(trainer.log, "sync", lambda: "sync")
    trace(trainer.checkpoints, "save", lambda step, *_: f"save {step}")
    return events


def test_a_step_is_dispatched_before_the_metrics_of_the_step_before_are_fetched(tmp_path, make_trainer, monkeypatch):
    trainer = make_trainer(tmp_path)
    events = traced(monkeypatch, trainer)
    assert trainer.run() == STEPS
    assert events == [
        *("validate 0", "dispatch 1", "dispatch 2", "log 1", "dispatch 3", "log 2", "log 3", "validate 3"),
        *("dispatch 4", "log 4", "sync", "save 4", "dispatch 5", "dispatch 6", "log 5", "log 6", "validate 6"),
        *("dispatch 7", "dispatch 8", "log 7", "log 8", "validate 8", "sync", "save 8"),
    ]


def test_a_stop_signal_saves_and_the_resumed_run_equals_an_uninterrupted_one(
    tmp_path, make_trainer, uninterrupted, monkeypatch
):
    stopped = make_trainer(tmp_path)
    events = traced(monkeypatch, stopped)
    monkeypatch.setattr(type(stopped.stop), "requested", property(lambda _: "dispatch 5" in events))
    assert stopped.run() == 5 and events[-3:] == ["log 5", "sync", "save 5"]
    monkeypatch.undo()
    resumed = make_trainer(tmp_path)
    assert resumed.resumed_step == 5 and resumed.run() == STEPS
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert records(tmp_path, name) == records(uninterrupted, name)


def test_bits_per_byte_change_no_loss_and_survive_a_kill(tmp_path, make_trainer, uninterrupted):
    gold = [GoldText("humaneval", [1, 2, 3], [4, 5], 6), GoldText("mbpp", [1, 7], [8], 2, shortened=True)]
    make_trainer(tmp_path, gold=gold).run()
    assert records(tmp_path) == records(uninterrupted)
    evaluations = records(tmp_path, "evaluations.jsonl")
    measured = [line for line in evaluations if line["kind"] == "benchmarks"]
    assert [line for line in evaluations if line not in measured] == records(uninterrupted, "evaluations.jsonl")
    assert [line["step"] for line in measured] == [0, 3, 6, 8]
    assert measured[0].keys() == {"kind", "step", "bits_per_byte/humaneval", "bits_per_byte/mbpp", "shortened/mbpp"}
    assert len({line["bits_per_byte/mbpp"] for line in measured}) == 4
    # killed during the save of step 8, after the lines of steps 6 and 8
    shutil.rmtree(tmp_path / "code/checkpoints/8")
    resumed = make_trainer(tmp_path, gold=gold)
    assert resumed.resumed_step == 4 and resumed.run() == STEPS
    assert records(tmp_path, "evaluations.jsonl") == evaluations


def test_a_spike_rolls_back_to_the_checkpoint_and_skips_its_batches(tmp_path, make_trainer, monkeypatch):
    trainer = make_trainer(tmp_path)
    spikes = []

    def check(step, batch, metrics):
        if step == 6 and not spikes:
            spikes.append(LossSpike(step, 9.0, 3.0, batch))
            raise spikes[0]

    monkeypatch.setattr(trainer.spikes, "check", check)
    assert trainer.run() == STEPS and spikes[0].__traceback__ is None
    lines = records(tmp_path)
    assert [(line["step"], line["batch"]) for line in lines] == [(n, n if n <= 4 else n + 2) for n in range(1, 9)]
    rollbacks = [line for line in records(tmp_path, "evaluations.jsonl") if line["kind"] == "rollback"]
    assert rollbacks == [{"kind": "rollback", "step": 5, "from": 6, "loss": 9.0}]


def test_data_that_differs_from_the_checkpoint_is_refused(make_trainer, uninterrupted):
    message = "the data differs from that of the checkpoint.* Corpus.splits .*the version of this program.*--name"
    with pytest.raises(UserError, match=message):
        make_trainer(uninterrupted, RandomData(version="2"))


def patient(patience):
    """Validates after every step, saves every fourth, and stops early."""
    evaluation = dataclasses.replace(CONFIG.evaluation, every=1, patience=patience)
    checkpoints = dataclasses.replace(CONFIG.checkpoints, keep=1)
    return dataclasses.replace(CONFIG, evaluation=evaluation, checkpoints=checkpoints)


def with_losses(monkeypatch, trainer, losses):
    """The trainer, whose validations after steps 1, 2, ... have these losses."""
    monkeypatch.setattr(
        trainer.evaluator, "validation", lambda params, batches: {"loss": losses[len(validations(trainer))]}
    )
    return trainer


def validations(trainer):
    return [line for line in trainer.log.evaluations if line["kind"] == "validation"]


LOSSES = [9.0, 5.0, 4.0, 4.5, 4.2, 4.1, 3.0, 2.0, 1.0]  # the lowest of the first five steps is that of step 2


def test_a_stage_ends_early_with_its_best_checkpoint(tmp_path, make_trainer, monkeypatch):
    trainer = with_losses(monkeypatch, make_trainer(tmp_path, config=patient(3)), LOSSES)
    states = {}
    evaluate = trainer._evaluate
    monkeypatch.setattr(
        trainer,
        "_evaluate",
        lambda step: (states.update({step: jax.device_get(trainer.state.params)}), evaluate(step))[1],
    )
    assert trainer.run() == 5 and trainer.finished
    assert trainer.take_best() == 2 and trainer.checkpoints.steps() == [2, 5]
    for expected, found in zip(jax.tree.leaves(states[2]), jax.tree.leaves(trainer.state.params), strict=True):
        np.testing.assert_array_equal(expected, found)

    # a process that was killed before done.json was written: nothing is trained again
    again = make_trainer(tmp_path, config=patient(3))
    assert again.resumed_step == 5 and again.run() == 5 and again.finished and again.take_best() == 2
    assert [line["step"] for line in records(tmp_path)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("stop_at", [1, 4])
def test_an_interrupted_stage_ends_early_at_the_same_step(tmp_path, make_trainer, monkeypatch, stop_at):
    stopped = with_losses(monkeypatch, make_trainer(tmp_path, config=patient(3)), LOSSES)
    monkeypatch.setattr(type(stopped.stop), "requested", property(lambda _: len(validations(stopped)) >= stop_at))
    assert stopped.run() == stop_at and not stopped.finished
    monkeypatch.undo()
    resumed = with_losses(monkeypatch, make_trainer(tmp_path, config=patient(3)), LOSSES)
    assert resumed.resumed_step == stop_at and resumed.run() == 5 and resumed.take_best() == 2


def test_without_patience_the_last_step_counts(tmp_path, make_trainer, uninterrupted):
    trainer = make_trainer(uninterrupted)
    assert trainer.finished and trainer.take_best() == STEPS
