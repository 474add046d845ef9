"""Sampling: filters, distributions, and independence of the rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codellama_jax.generation import sampling

V = 40


sample = jax.jit(sampling.sample)


def rows(count: int, **settings) -> sampling.RowSampling:
    empty = sampling.empty(count, V)
    # with the dtype, so that all settings are arguments of one program
    values = {name: jnp.full(count, value, getattr(empty, name).dtype) for name, value in settings.items()}
    keys = jnp.stack([jnp.zeros(count, jnp.uint32), jnp.arange(count, dtype=jnp.uint32)], axis=1)
    return dataclasses.replace(empty, key=keys, **values)


def drawn(logits: np.ndarray, settings: sampling.RowSampling) -> np.ndarray:
    count = len(settings.key)
    tiled = jnp.tile(jnp.asarray(logits, jnp.float32), (count, 1))
    return np.asarray(sample(tiled, settings, jnp.full(count, 3, jnp.int32)))


LOGITS = np.random.default_rng(0).normal(size=V) * 2


def expected(logits: np.ndarray, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> np.ndarray:
    """The distribution, computed in the plainest way."""
    p = np.exp(logits / temperature - np.max(logits / temperature))
    p /= p.sum()
    order = np.argsort(-p)
    kept = order[: top_k or None]
    q = p[kept] / p[kept].sum()
    number = int(np.searchsorted(np.cumsum(q), top_p - 1e-9) + 1)
    kept = [token for token in kept[:number] if p[token] >= min_p * p.max()]
    result = np.zeros(len(p))
    result[kept] = p[kept]
    return result / result.sum()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7, "top_k": 5},
        {"top_p": 0.8},
        {"top_p": 0.01},
        {"min_p": 0.2},
        {"temperature": 1.3, "top_k": 9, "top_p": 0.7, "min_p": 0.05},
    ],
)
def test_samples_have_the_distribution_of_the_settings(settings: dict):
    settings = {"temperature": 1.0} | settings
    found = np.bincount(drawn(LOGITS, rows(20_000, **settings)), minlength=V) / 20_000
    distribution = expected(LOGITS, **settings)
    assert not found[distribution == 0].any()
    assert np.abs(found - distribution).max() < 4 * np.sqrt(0.25 / 20_000)


def test_a_row_does_not_depend_on_the_others_or_on_its_place():
    settings = rows(16, temperature=1.0)
    mixed = dataclasses.replace(settings, top_p=jnp.linspace(0.2, 1, 16), top_k=jnp.arange(16, dtype=jnp.int32))
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(16, V)), jnp.float32)
    positions = jnp.arange(16, dtype=jnp.int32)
    together = np.asarray(sample(logits, mixed, positions))
    order = np.random.default_rng(2).permutation(16)
    shuffled = jax.tree.map(lambda x: x[order], mixed)
    assert (np.asarray(sample(logits[order], shuffled, positions[order])) == together[order]).all()


def test_greedy_and_sampled_rows_go_together():
    settings = dataclasses.replace(rows(2), temperature=jnp.array([0.0, 1.0]))
    assert drawn(LOGITS, settings)[0] == LOGITS.argmax()


def test_positions_and_seeds_change_the_sample():
    logits = jnp.zeros((64, V))
    by_seed = np.asarray(sample(logits, rows(64, temperature=1.0), jnp.zeros(64, jnp.int32)))
    one = dataclasses.replace(rows(64, temperature=1.0), key=jnp.zeros((64, 2), jnp.uint32))
    by_position = np.asarray(sample(logits, one, jnp.arange(64, dtype=jnp.int32)))
    assert len(set(by_seed.tolist())) > 20 and len(set(by_position.tolist())) > 20


def test_the_repetition_penalty_lowers_seen_tokens():
    logits = np.full(V, -1.0)
    logits[3], logits[5] = 2.0, 1.5
    seen = jnp.zeros((1, V), bool).at[0, 3].set(True)
    assert drawn(logits, dataclasses.replace(rows(1, repetition=1.2), seen=seen))[0] == 3
    assert drawn(logits, dataclasses.replace(rows(1, repetition=1.5), seen=seen))[0] == 5


def test_presence_and_frequency_penalties_lower_generated_tokens():
    logits = np.zeros(V)
    logits[3], logits[5], logits[7] = 3.0, 2.0, 1.0
    counts = jnp.zeros((8, V), jnp.int32).at[:, 3].set(3).at[:, 5].set(1)
    presence, frequency = [0, 0.9, 2, 0, 0, 0, 1.5, 0], [0, 0, 0, 0.4, 0.6, 1.1, 0.3, -1]
    penalties = {"presence": jnp.array(presence, jnp.float32), "frequency": jnp.array(frequency, jnp.float32)}
    found = drawn(logits, dataclasses.replace(rows(8), counts=counts, **penalties))
    assert found.tolist() == [3, 3, 3, 3, 5, 7, 7, 3]


def test_only_allowed_tokens_come_first():
    allowed = jnp.zeros((1, V), bool).at[0, 7].set(True)
    settings = dataclasses.replace(rows(1), allowed=allowed, first=jnp.array([3], jnp.int32))
    assert drawn(LOGITS, settings)[0] == 7
    assert drawn(LOGITS, dataclasses.replace(settings, first=jnp.array([4], jnp.int32)))[0] == LOGITS.argmax()


@pytest.mark.parametrize("length", [40, 128, 300])
def test_the_first_of_equally_likely_tokens_is_taken(length: int):
    """Also where all are impossible, and the first NaN where there is one: as jnp.argmax does."""
    logits = np.random.default_rng(0).integers(0, 9, (7, length)).astype(np.float32)
    logits[0], logits[1, 3:], logits[2, [5, 9]] = -np.inf, -np.inf, np.nan
    logits[3], logits[4, -1], logits[5, [2, -1]] = 0, 99, np.inf
    found = jax.jit(sampling.sample)(logits, sampling.empty(7, length), jnp.full(7, 3, jnp.int32))
    np.testing.assert_array_equal(found, np.argmax(logits, axis=-1))
