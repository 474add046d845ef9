"""AdamW with clipping, and the learning-rate curve (arXiv 2308.12950, section 2.6)."""

import jax
import jax.numpy as jnp
import optax

from codellama_jax.config.training import AdamW


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
    """Clipping by the global norm, then AdamW. Weight decay applies to matrices, not to norms (assumption)."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        _adam(settings),
        optax.add_decayed_weights(
            settings.weight_decay,
            mask=lambda params: jax.tree.map_with_path(
                lambda path, _: "norm" not in jax.tree_util.keystr(path), params
            ),
        ),
        # optax counts updates from 0, the curve counts from 1: the rate of the first update must not be 0
        optax.scale_by_learning_rate(lambda count: learning_rate(settings, steps, count + 1)),
    )


def _adam(settings: AdamW) -> optax.GradientTransformation:
    """Adam, whose moments are stored in the dtypes of the settings between steps."""
    adam = optax.scale_by_adam(b1=settings.beta1, b2=settings.beta2, eps=settings.eps)

    def cast(state: optax.ScaleByAdamState, first: str, second: str) -> optax.ScaleByAdamState:
        mu = jax.tree.map(lambda x: x.astype(first), state.mu)
        return state._replace(mu=mu, nu=jax.tree.map(lambda x: x.astype(second), state.nu))

    def init(params: optax.Params) -> optax.ScaleByAdamState:
        return cast(adam.init(params), settings.first_moment_dtype, settings.second_moment_dtype)

    def update(
        updates: optax.Updates, state: optax.ScaleByAdamState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAdamState]:
        updates, state = adam.update(updates, cast(state, "float32", "float32"), params)
        return updates, cast(state, settings.first_moment_dtype, settings.second_moment_dtype)

    return optax.GradientTransformation(init, update)
