"""The learning-rate curve against its formula, and AdamW against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.config.training import AdamW
from codellama_jax.training.optimizer import learning_rate, make_optimizer


@pytest.mark.parametrize("peak, warmup, steps", [(3e-4, 1000, 119_209), (2e-5, 100, 3_000), (3e-3, 50, 800)])
def test_learning_rate_at_the_corners_of_the_curve(peak, warmup, steps):
    settings = AdamW(peak_learning_rate=peak, warmup_steps=warmup)
    middle = (warmup + steps) / 2
    corners = {
        0: 0.0,
        warmup / 2: peak / 2,
        warmup: peak,
        middle: peak * (1 + 1 / 30) / 2,
        steps: peak / 30,
        2 * steps: peak / 30,
    }
    for step, expected in corners.items():
        np.testing.assert_allclose(learning_rate(settings, steps, step), expected, rtol=1e-5, atol=1e-12)


def test_learning_rate_rises_then_falls():
    settings = AdamW(peak_learning_rate=1.0, warmup_steps=10)
    curve = np.asarray(learning_rate(settings, 100, jnp.arange(1, 101)))
    assert np.all(np.diff(curve[:10]) > 0) and np.all(np.diff(curve[9:]) < 0)


def numpy_adamw(params, grads, moments, step, settings, steps):
    """One update in float64, as in the paper on AdamW, after clipping."""
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    rate = float(learning_rate(settings, steps, step))
    for name, p in params.items():
        g = grads[name] * min(1.0, settings.clip_norm / norm)
        m, v = moments.get(name, (0.0, 0.0))
        m = settings.beta1 * m + (1 - settings.beta1) * g
        v = settings.beta2 * v + (1 - settings.beta2) * g**2
        moments[name] = m, v
        scaled = m / (1 - settings.beta1**step) / (np.sqrt(v / (1 - settings.beta2**step)) + settings.eps)
        decay = settings.weight_decay * p if "norm" not in name else 0.0
        params[name] = p - rate * (scaled + decay)


def test_updates_equal_those_of_numpy():
    settings, steps = AdamW(peak_learning_rate=1e-2, warmup_steps=2), 5
    rng = np.random.default_rng(0)
    reference = {"wq": rng.normal(size=(3, 4)), "norm": rng.normal(size=4)}
    params = {name: jnp.asarray(p, jnp.float32) for name, p in reference.items()}
    optimizer = make_optimizer(settings, steps)
    state, moments = optimizer.init(params), {}
    for step in range(1, steps + 1):
        # the first gradients are clipped, the last are not
        grads = {name: rng.normal(size=p.shape) * (3 if step < 3 else 0.1) for name, p in reference.items()}
        updates, state = optimizer.update({k: jnp.asarray(g, jnp.float32) for k, g in grads.items()}, state, params)
        params = {name: p + updates[name] for name, p in params.items()}
        numpy_adamw(reference, grads, moments, step, settings, steps)
        for name in params:
            np.testing.assert_allclose(params[name], reference[name], rtol=1e-5)


def test_moments_in_bfloat16_take_half_the_memory_and_are_close():
    rng = np.random.default_rng(0)
    params = {"wq": jnp.asarray(rng.normal(size=(64, 64)), jnp.float32)}
    grads = [{"wq": jnp.asarray(rng.normal(size=(64, 64)), jnp.float32)} for _ in range(50)]
    after = {}
    for dtype in ("float32", "bfloat16"):
        settings = AdamW(1e-2, warmup_steps=2, first_moment_dtype=dtype, second_moment_dtype=dtype)
        optimizer = make_optimizer(settings, 50)
        now, state = params, optimizer.init(params)
        for gradient in grads:
            updates, state = optimizer.update(gradient, state, now)
            now = jax.tree.map(jnp.add, now, updates)
        moments = [x for x in jax.tree.leaves(state) if x.ndim]
        assert [x.dtype for x in moments] == [dtype, dtype]
        after[dtype] = np.asarray(now["wq"] - params["wq"])
    assert 0 < np.linalg.norm(after["bfloat16"] - after["float32"]) < 0.02 * np.linalg.norm(after["float32"])


def test_an_unknown_dtype_of_the_moments_is_refused():
    with pytest.raises(ValueError, match=r"AdamW.first_moment_dtype='fp8' must be 'float32', 'bfloat16' or 'int8'"):
        AdamW(1e-2, first_moment_dtype="fp8")
