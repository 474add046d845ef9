"""Infilling samples for the report: holes in validation documents, filled by the model."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from codellama_jax.tokenizer import Order, Tokenizer
from codellama_jax.training.step import Params
from codellama_jax.training.validation import Evaluator


@dataclasses.dataclass(frozen=True)
class Hole:
    """A document with a hole: the text before, in and after it."""

    stream: str
    prefix: str
    middle: str
    suffix: str


def punch_holes(texts: Sequence[tuple[str, str]], count: int, characters: int) -> list[Hole]:
    """Removes the end of one line from an excerpt of each text. The lines are chosen deterministically.

    Args:
        texts: (stream, document); texts without a suitable line are skipped.
        count: maximum number of holes.
        characters: length of an excerpt.
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
        cut = start + int(rng.integers(indent + 2, (indent + len(line)) // 2 + 1))
        end = start + len(line)
        holes.append(Hole(stream, text[:cut], text[cut:end], text[end:characters]))
    return holes[:count]


def infilling_samples(
    evaluator: Evaluator, params: Params, tokenizer: Tokenizer, holes: Sequence[Hole], tokens: int
) -> list[dict[str, Any]]:
    """Fills the holes by greedy decoding, alternately in PSM and SPM order.

    If the tokenizer has no infilling ids, completes the prefixes instead.
    """
    if not holes:
        return []
    orders: list[Order | None] = [
        None if tokenizer.eot_id is None else ("psm", "spm")[i % 2] for i in range(len(holes))
    ]
    prompts = [
        np.array([tokenizer.bos_id, *tokenizer.encode(hole.prefix)], np.int32)
        if order is None
        else np.asarray(tokenizer.infilling_prompt(hole.prefix, hole.suffix, order), np.int32)
        for hole, order in zip(holes, orders, strict=True)
    ]
    stop = tokenizer.eos_id if tokenizer.eot_id is None else tokenizer.eot_id
    completions = evaluator.greedy(params, prompts, tokens, stop)
    return [
        {**dataclasses.asdict(hole), "order": order or "completion", "generated": tokenizer.decode_continuation(ids)}
        for hole, order, ids in zip(holes, orders, completions, strict=True)
    ]
