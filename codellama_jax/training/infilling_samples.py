"""Infilling samples for the report: holes in validation documents, filled by the model."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from codellama_jax.config.generation import Sampling, Serving
from codellama_jax.config.model import Llama
from codellama_jax.generation import forward
from codellama_jax.generation.engine import Engine
from codellama_jax.model import lora
from codellama_jax.tokenizer import Order, Tokenizer
from codellama_jax.training.step import Params

CHUNK, STEPS = 128, 16  # of the engine: tokens of a prompt that are processed together, and steps in a dispatch


@dataclasses.dataclass(frozen=True)
class Hole:
    """A document with a hole: the text before, in and after it."""

    stream: str
    prefix: str
    middle: str
    suffix: str


def punch_holes(texts: Sequence[tuple[str, str]], count: int, characters: int, cut: str = "character") -> list[Hole]:
    """Removes a line, or the end of one, from an excerpt of each text. The lines are chosen deterministically.

    Args:
        texts: (stream, document); texts without a suitable line are skipped.
        count: maximum number of holes.
        characters: length of an excerpt.
        cut: where the model was trained to fill holes, as Fim.cut: with "line", a hole is a complete line.
    """
    rng = np.random.default_rng(0)
    holes = []
    for stream, text in texts:
        starts = [0, *(match.end() for match in re.finditer("\n", text[: characters // 2]))]
        lines = [(start, text[start:].split("\n", 1)[0].rstrip()) for start in starts]
        lines = [(start, line) for start, line in lines if start and 20 <= len(line.strip()) <= 80]
        if not lines:
            continue
        start, line = lines[rng.integers(len(lines))]
        indent = len(line) - len(line.lstrip())
        hole = start + int(rng.integers(indent + 2, (indent + len(line)) // 2 + 1))
        end = start + len(line)
        if cut == "line":
            hole, end = start, text.find("\n", end) + 1 or len(text)
        holes.append(Hole(stream, text[:hole], text[hole:end], text[end:characters]))
    return holes[:count]


def infilling_samples(
    llama: Llama, mesh: Mesh, params: Params, tokenizer: Tokenizer, holes: Sequence[Hole], tokens: int
) -> list[dict[str, Any]]:
    """Fills the holes by greedy decoding, alternately in the orders of the tokenizer. Every process must call it.

    If the tokenizer has no infilling ids, completes the prefixes instead.
    """
    if not holes:
        return []
    trained = sorted(tokenizer.orders)
    orders: list[Order | None] = [
        None if tokenizer.eot_id is None else trained[i % len(trained)] for i in range(len(holes))
    ]
    prompts = [
        tokenizer.prompt_ids(hole.prefix)
        if order is None
        else list(tokenizer.infilling_prompt(hole.prefix, hole.suffix, order))
        for hole, order in zip(holes, orders, strict=True)
    ]
    stop = tokenizer.eos_id if tokenizer.eot_id is None else tokenizer.eot_id
    completions = greedy(llama, mesh, params, prompts, tokens, stop)
    return [
        {**dataclasses.asdict(hole), "order": order or "completion", "generated": tokenizer.decode_continuation(ids)}
        for hole, order, ids in zip(holes, orders, completions, strict=True)
    ]


def generation_weights(llama: Llama, mesh: Mesh, params: Params) -> forward.Weights:
    """The parameters in the form of the engine of generation. They stay where they are: in parts on the devices."""

    def weights(params: Params) -> forward.Weights:
        def read(name: str, layer: int | None) -> jax.Array:
            return params[name] if layer is None else lora.merge(params["blocks"][name][layer])

        return forward.weights_of(read, llama, mesh)

    return jax.jit(weights)(params)


def greedy(
    llama: Llama, mesh: Mesh, params: Params, prompts: Sequence[Sequence[int]], tokens: int, stop: int
) -> list[list[int]]:
    """At most `tokens` ids after each prompt, ending before the first `stop`, by the engine of generation."""
    engine = make_engine(llama, mesh, params, max(map(len, prompts)) + tokens, len(prompts))
    return answers(engine, prompts, tokens, stop)


def make_engine(llama: Llama, mesh: Mesh, params: Params, context: int, slots: int) -> Engine:
    """An engine for prompts that have at most `context` tokens with their answers, `slots` at a time."""
    sizes = Serving(slots=slots, context=context, chunks=(CHUNK,), steps=STEPS, prefix_cache=False)
    weights = generation_weights(llama, mesh, params)
    return Engine(weights, llama, sizes, llama.vocab_size - llama.padding_rows, mesh)


def answers(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int, stop: int) -> list[list[int]]:
    """`greedy` with an engine, whose programs are compiled once."""
    requests = [engine.submit(prompt, Sampling(max_tokens=tokens), (stop,)) for prompt in prompts]
    while engine.busy:
        engine.step()
    return [request.tokens for request in requests]
