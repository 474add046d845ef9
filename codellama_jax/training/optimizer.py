"""AdamW with clipping, and the learning-rate curve (arXiv 2308.12950, section 2.6); Muon for matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from codellama_jax.config.model import BIASES
from codellama_jax.config.training import AdamW
from codellama_jax.training import moments


def learning_rate(settings: AdamW, steps: int, step: jax.Array | int) -> jax.Array:
    """Learning rate of optimizer step `step`, counted from 1, float32.

    It rises linearly from 0 at step 0 to the peak at warmup_steps, then falls along half a cosine to
    final_ratio * peak at `steps`, and stays there. config/training.py has the settings: final_ratio is 1/30.
    """
    step = jnp.asarray(step, jnp.float32)
    warmup = step / max(settings.warmup_steps, 1)
    progress = jnp.clip((step - settings.warmup_steps) / max(steps - settings.warmup_steps, 1), 0.0, 1.0)
    cosine = settings.final_ratio + (1 - settings.final_ratio) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
    return settings.peak_learning_rate * jnp.where(step < settings.warmup_steps, warmup, cosine)


def make_optimizer(settings: AdamW, steps: int) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW. Weight decay applies to matrices, not norms and biases (assumption)."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        _adam(settings) if settings.matrices == "adam" else _muon(settings),
        optax.add_decayed_weights(
            settings.weight_decay,
            mask=lambda params: jax.tree.map_with_path(
                lambda path, _: "norm" not in jax.tree_util.keystr(path) and _name(path) not in BIASES, params
            ),
        ),
        # optax counts updates from 0, the curve counts from 1: the rate of the first update must not be 0
        optax.scale_by_learning_rate(lambda count: learning_rate(settings, steps, count + 1)),
    )


def _adam(settings: AdamW) -> optax.GradientTransformation:
    """Adam, whose moments are stored in the dtypes of the settings between steps."""
    adam = optax.scale_by_adam(b1=settings.beta1, b2=settings.beta2, eps=settings.eps)
    dtypes = settings.first_moment_dtype, settings.second_moment_dtype

    def store(state: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
        bits = moments.random_bits(state.mu, state.count) if "int8" in dtypes else None
        mu = moments.stored(state.mu, dtypes[0], moments.SIGNED, jax.tree.map(lambda x: x & 0xFFFF, bits))
        nu = moments.stored(state.nu, dtypes[1], moments.POSITIVE, jax.tree.map(lambda x: x >> 16, bits))
        return state._replace(mu=mu, nu=nu)

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        mu, nu = moments.zeros(params, dtypes[0], moments.SIGNED), moments.zeros(params, dtypes[1], moments.POSITIVE)
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        mu, nu = moments.loaded(state.mu, moments.SIGNED), moments.loaded(state.nu, moments.POSITIVE)
        updates, state = adam.update(updates, state._replace(mu=mu, nu=nu), params)
        return updates, store(state)

    return optax.GradientTransformation(init, update)


# Axes of a matrix of the blocks, of the inputs and of the outputs; the first axis is the block.
_AXES = {
    "wq": contrib.MuonDimensionNumbers(1, (2, 3)),
    "wk": contrib.MuonDimensionNumbers(1, (2, 3)),
    "wv": contrib.MuonDimensionNumbers(1, (2, 3)),
    "wo": contrib.MuonDimensionNumbers((1, 2), 3),
    "w1": contrib.MuonDimensionNumbers(1, 2),
    "w2": contrib.MuonDimensionNumbers(1, 2),
    "w3": contrib.MuonDimensionNumbers(1, 2),
    # the factors of an adapter (model/lora.py): the rank is the output of A and the input of B
    **{f"{name}_a": contrib.MuonDimensionNumbers(1, 2) for name in ("wq", "wk", "wv", "w1", "w2", "w3")},
    "wo_a": contrib.MuonDimensionNumbers((1, 2), 3),
    **{f"{name}_b": contrib.MuonDimensionNumbers(1, (2, 3)) for name in ("wq", "wk", "wv")},
    **{f"{name}_b": contrib.MuonDimensionNumbers(1, 2) for name in ("wo", "w1", "w2", "w3")},
}
_RMS = 0.2  # of an update of Muon, that of AdamW's: its learning rates and weight decay serve (arXiv 2502.16982)


def _name(path: jax.tree_util.KeyPath) -> str:
    """Of a parameter, without its module."""
    return str(path[-1].key)


def _muon(settings: AdamW) -> optax.GradientTransformation:
    """Muon for the matrices of the blocks, Adam for embedding, head, norms and biases."""

    def axes(params: optax.Params) -> optax.Params:
        return jax.tree.map_with_path(lambda path, _: _AXES.get(_name(path)), params)

    def labels(params: optax.Params) -> optax.Params:
        return jax.tree.map_with_path(lambda path, _: "muon" if _name(path) in _AXES else "adam", params)

    def scaled(path: jax.tree_util.KeyPath, update: jax.Array) -> jax.Array:
        inputs, outputs = (np.prod(np.take(update.shape, each)) for each in _AXES[_name(path)])
        return update * (_RMS * np.sqrt(max(inputs, outputs)))

    muon = optax.chain(
        contrib.scale_by_muon(mu_dtype=settings.first_moment_dtype, weight_dimension_numbers=axes),
        optax.stateless(lambda updates, _: jax.tree.map_with_path(scaled, updates)),
    )
    return optax.partition({"muon": muon, "adam": _adam(settings)}, labels)
