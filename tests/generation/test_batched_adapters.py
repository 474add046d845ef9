"""Requests with different adapters in one batch: each has the tokens of its own merged model, bit for bit alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation_models import SHAPES, random_params, weights_of

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.config.lora import Lora
from codellama_jax.config.training import Mesh
from codellama_jax.conversion import canonical
from codellama_jax.generation.adapters import Adapter, with_adapters
from codellama_jax.generation.engine import Engine
from codellama_jax.model.llama import hidden_states
from codellama_jax.sharding import make_mesh
from codellama_jax.training.step import merged as decoder_of

pytestmark = pytest.mark.compares_bits

LLAMA = SHAPES["70b"]
PROMPT = list(range(3, 60))
SETTINGS = Sampling(max_tokens=12, logprobs=0)
LORAS = (Lora(rank=4, alpha=8.0), Lora(rank=2, alpha=2.0, targets="wq+wo+w2"), Lora(rank=7, targets="w1"))


@functools.cache
def adapters():
    rng = np.random.default_rng(5)
    found = []
    for lora in LORAS:
        factors = {}
        for name in lora.names:
            outs, ins = canonical.shape(LLAMA, name)
            shapes = (LLAMA.layers, ins, lora.rank), (LLAMA.layers, lora.rank, outs)
            factors[name] = tuple(0.15 * rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        found.append(Adapter(factors, lora.scale))
    return tuple(found)


def merged(number):
    """The parameters of the model with one adapter."""
    params = random_params(LLAMA)
    adapter = adapters()[number - 1]
    for name, (a, b) in adapter.factors.items():
        weight = params["blocks"][name]
        params["blocks"][name] = weight + adapter.scale * (a @ b).reshape(weight.shape)
    return params


@functools.cache
def engine(slots=4, mesh=None, **serving):
    weights = weights_of(random_params(LLAMA), LLAMA, mesh)
    sizes = Serving(slots=slots, context=128, chunks=(16,), **serving)
    return Engine(with_adapters(weights, adapters(), LLAMA, mesh), LLAMA, sizes, LLAMA.vocab_size, mesh)


def answers(engine, numbers, prompt=PROMPT, settings=SETTINGS):
    """The tokens and log-probabilities of requests that run together."""
    requests = [engine.submit(prompt, settings, adapter=number) for number in numbers]
    while engine.busy:
        engine.step()
    return [(request.tokens, [token.logprob for token in request.logprobs]) for request in requests]


@jax.jit
def logprobs_of(params, tokens_BS):
    """Of every next token, by the training forward pass, [B, S, V]."""
    positions_BS = jnp.broadcast_to(jnp.arange(tokens_BS.shape[1]), tokens_BS.shape)
    decoder = decoder_of(LLAMA, params)
    return jax.nn.log_softmax(hidden_states(decoder, LLAMA, tokens_BS, positions_BS) @ decoder.head[...])


def test_each_request_has_the_answer_of_its_merged_model():
    together = answers(engine(), (0, 1, 2, 3))
    assert len({tuple(tokens) for tokens, _ in together}) == 4, "the adapters matter"
    for number, (tokens, logprobs) in enumerate(together):
        params = merged(number) if number else random_params(LLAMA)
        expected = np.asarray(logprobs_of(params, jnp.asarray([PROMPT + tokens])))[0, len(PROMPT) - 1 : -1]
        assert tokens == expected.argmax(-1).tolist()
        np.testing.assert_allclose(logprobs, expected.max(-1), atol=1e-4)


def test_the_bits_of_a_request_do_not_depend_on_the_others():
    """Nor on the number of rows of the program; without an adapter, they are those of the model alone."""
    together, few = answers(engine(), (3, 1, 0, 1)), engine(slots=2)
    assert together[1] == together[3]
    for number, expected in ((3, together[0]), (1, together[1]), (0, together[2])):
        assert answers(few, (number,)) == [expected]
    sizes = Serving(slots=2, context=128, chunks=(16,))
    alone = Engine(weights_of(random_params(LLAMA), LLAMA), LLAMA, sizes, LLAMA.vocab_size)
    assert answers(alone, (0,)) == [together[2]]


def test_the_prefix_cache_is_not_shared_between_adapters():
    cached = engine.__wrapped__(slots=2)  # nothing is in its cache
    first = answers(cached, (1,))
    requests = [cached.submit(PROMPT, SETTINGS, adapter=number) for number in (1, 2)]
    while cached.busy:
        cached.step()
    assert requests[0].cached > 0 and requests[1].cached == 0
    assert requests[0].tokens == first[0][0] != requests[1].tokens


def test_guesses_are_verified_with_the_adapter():
    guessing, prompt = engine(slots=2, draft_tokens=4), PROMPT[:8] * 4
    assert answers(guessing, (1, 2), prompt) == answers(engine(slots=2), (1, 2), prompt)


def test_a_model_over_two_devices_gives_the_same_tokens():
    mesh = make_mesh(Mesh(fsdp=1, tensor=2), devices=jax.devices()[:2])
    numbers = (0, 1, 2, 3)
    for (tokens, logprobs), (expected, theirs) in zip(
        answers(engine(mesh=mesh), numbers), answers(engine(), numbers), strict=True
    ):
        assert tokens == expected
        np.testing.assert_allclose(logprobs, theirs, atol=1e-4)


def test_a_cache_of_8_bits_works_with_adapters():
    [base, adapted] = answers(engine(slots=2, cache_dtype="int8"), (0, 1))
    assert base[0] != adapted[0]
