"""When a stage ends early, and with which checkpoint."""

import math

import pytest

from codellama_jax.training.early_stopping import EarlyStopping


def of(losses, patience=2, kind="infilling"):
    lines = [{"kind": kind, "step": step, "loss": loss} for step, loss in enumerate(losses)]
    return EarlyStopping.of(patience, "infilling", lines)


@pytest.mark.parametrize(
    "losses, best, stops",
    [
        ([0.1], None, False),
        ([0.1, 3.0, 2.0], 2, False),  # the loss before the first step does not count
        ([9.0, 3.0, 3.0, 3.5], 1, True),  # an equal loss is no improvement
        ([9.0, 3.0, 4.0, 2.0, 4.0], 3, False),
        ([9.0, None, None], None, True),  # a loss that was not finite
        ([9.0, 5.0, math.nan, 4.0], 3, False),
    ],
)
def test_a_stage_stops_when_its_loss_has_stopped_falling(losses, best, stops):
    found = of(losses)
    assert (found.best_step, found.stops) == (best, stops)
    assert not of(losses, patience=0).stops
    assert of(losses, kind="validation") == EarlyStopping(2), "evaluations of another kind do not count"


def test_the_state_is_a_function_of_the_evaluations():
    losses = [9.0, 5.0, 6.0, 4.0, 4.5, 4.2, 3.0]
    for count in range(len(losses)):
        found = of(losses[: count + 1], patience=3)
        assert found.waited == count - (found.best_step or 0)
