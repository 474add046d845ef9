"""The infilling transform (arXiv 2308.12950, section 2.3) and the plain form of a document.

Both orders have one layout: BOS PRE A SUF B MID C EOT EOS, where B is the suffix and

    PSM   A = prefix    C = middle             (the middle without the implicit space: it continues a split token)
    SPM   A = nothing   C = prefix + middle    (concatenated before encoding, so that no token is split between them)

Some families of models have no BOS, or one token for EOT and EOS (codellama_jax/tokenizer/infilling.py has the names).
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from codellama_jax.config.data import Fim
from codellama_jax.tokenizer import Order, Tokenizer


@dataclasses.dataclass(frozen=True)
class FimSplit:
    """How a document is split: characters [0, start) are the prefix, [start, end) the middle, [end, ...) the suffix."""

    order: Order
    start: int
    end: int

    def parts(self, text: str) -> tuple[str, str, str]:
        """(prefix, middle, suffix); their concatenation is the text."""
        return text[: self.start], text[self.start : self.end], text[self.end :]


def draw_split(text: str, fim: Fim, rng: np.random.Generator) -> FimSplit | None:
    """Draws whether a document is transformed, and how.

    Two split points are drawn independently and sorted. Each is uniform over the length + 1 gaps between characters, or
    with fim.cut "line" over the starts of lines and the end of the text; "both" draws which of the two. The middle may
    be empty. The result is None with probability 1 - fim.rate.
    """
    if rng.random() >= fim.rate:
        return None
    order: Order = "psm" if rng.random() < fim.psm_share else "spm"
    if fim.cut == "line" or (fim.cut == "both" and rng.random() < fim.line_share):
        line_starts = sorted({0, *(match.end() for match in re.finditer("\n|\r(?!\n)", text)), len(text)})
        start, end = sorted(line_starts[x] for x in rng.integers(0, len(line_starts), size=2))
    else:
        start, end = sorted(int(x) for x in rng.integers(0, len(text) + 1, size=2))
    return FimSplit(order, start, end)


def encode_plain(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """BOS text EOS, int32; without BOS if the tokenizer has none."""
    return _concatenated(tokenizer.start_ids, tokenizer.encode(text), [tokenizer.eos_id])


def encode_infilling(tokenizer: Tokenizer, text: str, split: FimSplit) -> np.ndarray:
    """The document in its infilling form, int32: the prompt that inference uses, then the middle, EOT and EOS.

    Raises:
        UserError: the tokenizer has no infilling ids.
    """
    prefix, middle, suffix = split.parts(text)
    if split.order == "psm":
        prompt = tokenizer.infilling_prompt(prefix, suffix, "psm")
        completion = tokenizer.encode_continuation(middle)
    else:
        # The prompt of an empty prefix ends in MID; prefix and middle follow as one text.
        prompt = tokenizer.infilling_prompt("", suffix, "spm")
        completion = tokenizer.encode(prefix + middle)
    ends = dict.fromkeys((tokenizer.eot_id, tokenizer.eos_id))  # one, if the end of a text also ends the middle
    return _concatenated(prompt, completion, list(ends))


def _concatenated(*parts: Sequence[int | None] | np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])
