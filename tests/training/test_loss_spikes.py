"""What is made of steps that would harm the model."""

import json
from types import SimpleNamespace

import pytest

from codellama_jax.config.training import LossSpikes
from codellama_jax.errors import UserError
from codellama_jax.training.loss_spikes import LossSpike, LossSpikeMonitor

BATCH = SimpleNamespace(documents=[("code", "a.py"), ("nl", "b.txt#2")])


class Run:
    """Steps as the loop would give them."""

    def __init__(self, tmp_path, settings, saved=lambda: 10, rollbacks=0):
        self.lines, self.rollbacks = [], rollbacks
        self.watch = LossSpikeMonitor(settings, tmp_path, 0, lambda: self.lines, lambda: self.rollbacks, saved)

    def step(self, loss, skipped=False):
        self.lines.append({"step": len(self.lines) + 1, "loss": None if skipped else loss, "skipped": skipped})
        metrics = {"loss": float("nan") if skipped else loss, "grad_norm": 1.0, "skipped": skipped}
        self.watch.look(len(self.lines), BATCH, metrics)


def test_skipped_steps_are_noted_with_their_documents(tmp_path):
    run = Run(tmp_path, LossSpikes(in_a_row=3))
    for skipped in (False, True, True, False, True):
        run.step(2.0, skipped)
    noted = [json.loads(line) for line in (tmp_path / "skipped_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in noted] == [2, 3, 5]
    assert noted[0] == {"step": 2, "loss": "nan", "grad_norm": "1.0", "documents": ["code: a.py", "nl: b.txt#2"]}


def test_steps_that_are_done_again_are_noted_once(tmp_path):
    notes = tmp_path / "skipped_steps.jsonl"
    notes.write_text('{"step": 2}\n{"step": 5}\n{"st')
    LossSpikeMonitor(LossSpikes(), tmp_path, 0, list, lambda: 0, lambda: 3, resumed=3)
    assert notes.read_text() == '{"step": 2}\n'


def test_too_many_in_a_row_end_the_run(tmp_path):
    run = Run(tmp_path, LossSpikes(in_a_row=3))
    run.step(2.0)
    run.step(2.0, skipped=True)
    run.step(2.0, skipped=True)
    with pytest.raises(
        UserError, match=r"not finite in 3 steps .* up to step 4; .* the checkpoint of step 10 is whole"
    ):
        run.step(2.0, skipped=True)


def test_a_spike_stands_out_of_the_steps_before(tmp_path):
    run = Run(tmp_path, LossSpikes(spike=0.5, spike_window=8))
    run.step(9.0)  # too few before it
    for loss in (2.0, 2.1, 1.9, 2.0):
        run.step(loss)
    run.step(2.45)
    run.step(2.0, skipped=True)
    with pytest.raises(LossSpike) as caught:
        run.step(2.6)
    assert (caught.value.step, caught.value.loss, caught.value.batch) == (8, 2.6, BATCH)


@pytest.mark.parametrize(("saved", "spike"), [(lambda: None, 0.5), (lambda: 10, 0.0)])
def test_nothing_to_go_back_to_or_not_asked_for(tmp_path, saved, spike):
    run = Run(tmp_path, LossSpikes(spike=spike, spike_window=4), saved)
    for loss in (2.0, 2.0, 2.0, 9.0):
        run.step(loss)


def test_a_stage_does_not_go_back_for_ever(tmp_path):
    run = Run(tmp_path, LossSpikes(spike=0.5, spike_window=4, rollbacks=2), rollbacks=2)
    run.step(2.0)
    run.step(2.0)
    with pytest.raises(UserError, match=r"loss 3.000 at step 3, 1.000 above .* went back 2 times"):
        run.step(3.0)
