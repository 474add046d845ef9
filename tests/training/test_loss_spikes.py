"""Steps that would harm the model: recorded if skipped, rolled back after a loss spike."""

import json
from types import SimpleNamespace

import pytest

from codellama_jax.config.training import LossSpikes
from codellama_jax.errors import UserError
from codellama_jax.training.loss_spikes import LossSpike, LossSpikeMonitor

BATCH = SimpleNamespace(documents=[("code", "a.py"), ("nl", "b.txt#2")])


class Run:
    """Records and checks steps, as the training loop does; also serves as the records and checkpoints of the stage."""

    def __init__(self, tmp_path, settings, saved=10, rollbacks=0):
        self.steps, self.rollbacks, self.saved = [], rollbacks, saved
        self.monitor = LossSpikeMonitor(settings, tmp_path, 0, self, self)

    def last_saved(self):
        return self.saved

    def step(self, loss, skipped=False):
        self.steps.append({"step": len(self.steps) + 1, "loss": None if skipped else loss, "skipped": skipped})
        metrics = {"loss": float("nan") if skipped else loss, "grad_norm": 1.0, "skipped": skipped}
        self.monitor.check(len(self.steps), BATCH, metrics)


def test_skipped_steps_are_recorded_with_their_documents(tmp_path):
    run = Run(tmp_path, LossSpikes(max_consecutive_skips=3))
    for skipped in (False, True, True, False, True):
        run.step(2.0, skipped)
    recorded = [json.loads(line) for line in (tmp_path / "skipped_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in recorded] == [2, 3, 5]
    assert recorded[0] == {"step": 2, "loss": "nan", "grad_norm": "1.0", "documents": ["code: a.py", "nl: b.txt#2"]}


def test_steps_that_run_again_are_recorded_once(tmp_path):
    path = tmp_path / "skipped_steps.jsonl"
    path.write_text('{"step": 2}\n{"step": 5}\n{"st')
    run = Run(tmp_path / "unused", LossSpikes())
    LossSpikeMonitor(LossSpikes(), tmp_path, 0, run, run, resumed_step=3)
    assert path.read_text() == '{"step": 2}\n'


def test_too_many_consecutive_skips_end_the_run(tmp_path):
    run = Run(tmp_path, LossSpikes(max_consecutive_skips=3))
    run.step(2.0)
    run.step(2.0, skipped=True)
    run.step(2.0, skipped=True)
    with pytest.raises(
        UserError, match=r"not finite in 3 consecutive steps, up to step 4; .* the checkpoint of step 10 is complete"
    ):
        run.step(2.0, skipped=True)


def test_a_loss_above_the_median_by_more_than_the_threshold_is_a_spike(tmp_path):
    run = Run(tmp_path, LossSpikes(threshold=0.5, window=8))
    run.step(9.0)  # there are too few steps before it
    for loss in (2.0, 2.1, 1.9, 2.0):
        run.step(loss)
    run.step(2.45)
    run.step(2.0, skipped=True)
    with pytest.raises(LossSpike) as caught:
        run.step(2.6)
    assert (caught.value.step, caught.value.loss, caught.value.batch) == (8, 2.6, BATCH)


@pytest.mark.parametrize(("saved", "threshold"), [(None, 0.5), (10, 0.0)])
def test_no_rollback_without_a_checkpoint_or_a_threshold(tmp_path, saved, threshold):
    run = Run(tmp_path, LossSpikes(threshold=threshold, window=4), saved)
    for loss in (2.0, 2.0, 2.0, 9.0):
        run.step(loss)


def test_the_number_of_rollbacks_is_limited(tmp_path):
    run = Run(tmp_path, LossSpikes(threshold=0.5, window=4, max_rollbacks=2), rollbacks=2)
    run.step(2.0)
    run.step(2.0)
    with pytest.raises(UserError, match=r"loss 3.000 at step 3, 1.000 above .* after 2 rollbacks"):
        run.step(3.0)
