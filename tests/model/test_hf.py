"""The decoder against Hugging Face's LlamaForCausalLM: logits, losses and all gradients, in float32.

It is compared with the golden values of make_hf_golden.py and, if torch and transformers are installed, with the real
model.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_hf_golden import CASES, EPS, GOLDEN, Case, digest, hugging_face, selected_logits, text, weights

from codellama_jax.attention import make_attend
from codellama_jax.config.model import Llama
from codellama_jax.config.training import Mesh
from codellama_jax.model.llama import hidden_states
from codellama_jax.sharding import make_mesh
from codellama_jax.training.loss import weighted_loss
from codellama_jax.training.step import merged

LOGITS = 2e-5  # absolute; logits reach 4.7
GRADIENTS = 1e-4  # for each parameter, relative to the norm of its gradient

# our names -> Hugging Face's names
BLOCK = {
    "attention_norm": "input_layernorm",
    "wq": "self_attn.q_proj",
    "wk": "self_attn.k_proj",
    "wv": "self_attn.v_proj",
    "wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "w1": "mlp.gate_proj",
    "w3": "mlp.up_proj",
    "w2": "mlp.down_proj",
}


def from_hugging_face(case: Case, theirs: dict[str, np.ndarray]):
    """Converts Hugging Face parameters, which are [out, in] with heads and channels in one dim."""

    def layer(ours: str, n: int) -> np.ndarray:
        value = theirs[f"model.layers.{n}.{BLOCK[ours]}.weight"].T
        if ours in ("wq", "wk", "wv"):
            return value.reshape(case.dim, -1, 128)
        return value.reshape(-1, 128, case.dim) if ours == "wo" else value

    return {
        "embedding": theirs["model.embed_tokens.weight"],
        "blocks": {ours: np.stack([layer(ours, n) for n in range(case.layers)]) for ours in BLOCK},
        "norm": theirs["model.norm.weight"],
        "head": theirs["lm_head.weight"].T,
    }


def to_hugging_face(case: Case, ours) -> dict[str, np.ndarray]:
    """The inverse of from_hugging_face, for gradients."""

    def layer(name: str, n: int) -> np.ndarray:
        value = np.asarray(ours["blocks"][name][n])
        return value.reshape((-1, case.dim) if name == "wo" else (len(value), -1)).T if value.ndim > 1 else value

    blocks = {f"model.layers.{n}.{BLOCK[name]}.weight": layer(name, n) for n in range(case.layers) for name in BLOCK}
    return blocks | {
        "model.embed_tokens.weight": np.asarray(ours["embedding"]),
        "model.norm.weight": np.asarray(ours["norm"]),
        "lm_head.weight": np.asarray(ours["head"]).T,
    }


def config(case: Case, attention: str) -> Llama:
    return Llama(
        dim=case.dim,
        layers=case.layers,
        heads=case.heads,
        kv_heads=case.kv_heads,
        ffn_dim=case.ffn_dim,
        vocab_size=case.vocab,
        norm_eps=EPS,
        rope_theta=case.rope_theta,
        compute_dtype="float32",
        attention=attention,
        attention_block=128,  # three blocks of queries, and of keys
        splash_block=128,
        splash_block_backward=128,
        loss_chunk=128,
    )


@functools.cache
def ours(key: str, attention: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Logits [S, V], losses [S], and the gradients of the mean loss under Hugging Face's names."""
    case = CASES[key]
    llama = config(case, attention)
    mesh = make_mesh(Mesh(), devices=jax.devices()[:1])
    attend = make_attend(llama, mesh)
    tokens, targets = (jnp.asarray(ids, jnp.int32)[None] for ids in text(case))
    positions = jnp.arange(tokens.shape[1])[None]
    weights_BS = jnp.full(tokens.shape, 1 / tokens.size)

    def loss(params):
        model = merged(llama, params)
        x_BSD = hidden_states(model, llama, tokens, positions, attend=attend)
        mean, losses_BS = weighted_loss(x_BSD, model.head[...], targets, weights_BS, llama.loss_chunk, mesh)
        return mean, (x_BSD @ model.head[...], losses_BS)

    with jax.set_mesh(mesh):
        gradients, (logits, losses) = jax.jit(jax.grad(loss, has_aux=True))(from_hugging_face(case, weights(case)))
    return np.asarray(logits[0]), np.asarray(losses[0]), to_hugging_face(case, gradients)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def check_gradients(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], norms: dict[str, float]) -> None:
    """Asserts that each gradient differs by at most GRADIENTS of its norm."""
    assert ours.keys() == theirs.keys()
    errors = {name: np.linalg.norm(ours[name] - theirs[name]) / norms[name] for name in theirs}
    assert max(errors.values()) <= GRADIENTS, errors


@pytest.mark.parametrize("key, attention", [*((key, "blocked") for key in CASES), ("7b", "splash"), ("34b", "splash")])
def test_logits_losses_and_gradients_equal_the_golden_values(golden, key, attention):
    logits, losses, gradients = ours(key, attention)
    np.testing.assert_allclose(selected_logits(logits), golden[f"{key}/logits"], atol=LOGITS, rtol=0)
    np.testing.assert_allclose(losses, golden[f"{key}/losses"], atol=LOGITS, rtol=0)
    norms = {name: float(golden[f"{key}/{name}/norm"]) for name in gradients}
    for name, gradient in gradients.items():
        np.testing.assert_allclose(np.linalg.norm(gradient), norms[name], rtol=GRADIENTS)
    check_gradients(
        {name: digest(gradient) for name, gradient in gradients.items()},
        {name: golden[f"{key}/{name}"] for name in gradients},
        norms,
    )


@pytest.mark.skipif(
    not all(importlib.util.find_spec(package) for package in ("torch", "transformers")),
    reason="torch and transformers are not installed (see make_hf_golden.py): compared with golden values only",
)
@pytest.mark.parametrize("key", CASES)
def test_complete_gradients_equal_hugging_face(key):
    logits, losses, gradients = ours(key, "blocked")
    their_logits, their_losses, their_gradients = hugging_face(CASES[key])
    np.testing.assert_allclose(logits, their_logits, atol=LOGITS, rtol=0)
    np.testing.assert_allclose(losses, their_losses, atol=LOGITS, rtol=0)
    check_gradients(gradients, their_gradients, {name: np.linalg.norm(g) for name, g in their_gradients.items()})


def test_digest_preserves_the_size_of_errors():
    """An error in one entry, one row or all of a gradient has about the same norm in its digest."""
    rng = np.random.default_rng(0)
    for shape in ((2048,), (2048, 5504), (256, 2048)):
        one_entry, one_row = np.zeros(shape), np.zeros(shape)
        one_entry.flat[77] = 3
        one_row[:64] = rng.normal(size=one_row[:64].shape)
        for error in (one_entry, one_row, rng.normal(size=shape)):
            assert 0.5 < np.linalg.norm(digest(error)) / np.linalg.norm(error) < 2
