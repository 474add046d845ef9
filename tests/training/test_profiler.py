"""Traces for TensorBoard."""

import jax.numpy as jnp

from codellama_jax.training.profiler import TRACED_STEPS, Profiler


def test_configured_steps_are_traced_and_others_on_demand(tmp_path):
    trigger, log_dir = tmp_path / "profile", tmp_path / "tensorboard"
    profiler = Profiler(3, 4, trigger, log_dir)
    messages = {}
    for step in range(1, 20):
        if step == 10:
            trigger.touch()
        jnp.ones(8).sum().block_until_ready()
        if message := profiler.step_done(step):
            messages[step] = message
    assert list(messages) == [4, 10 + TRACED_STEPS] and "tensorboard --logdir=" in messages[4]
    assert not trigger.exists()
    for first in (3, 11):
        assert len(list(log_dir.glob(f"trace_{first}/plugins/profile/*/*.xplane.pb"))) == 1
