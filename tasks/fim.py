"""The infilling transform (arXiv 2308.12950, section 2.3), and the plain form beside it.

One layout serves both orders: BOS PRE A SUF B MID C EOT EOS with B the suffix and

    PSM   A = prefix    C = middle             (the middle without the implicit space: the seam splits a token there)
    SPM   A = nothing   C = prefix + middle    (joined before encoding, so that no token is split at the seam)
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from codellama_jax.config.data import Fim
from codellama_jax.tokenizer import Tokenizer

Order = Literal["psm", "spm"]


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a document is cut: characters [0, start) are the prefix, [start, end) the middle, [end, ...) the suffix."""

    order: Order
    start: int
    end: int

    def parts(self, text: str) -> tuple[str, str, str]:
        """(prefix, middle, suffix); joined they are the text."""
        return text[: self.start], text[self.start : self.end], text[self.end :]


def draw(text: str, fim: Fim, rng: np.random.Generator) -> Cut | None:
    """Draws whether and how a document is transformed.

    Two cut points, each uniform over the length + 1 gaps between characters (with fim.cut "line": over the beginnings
    of lines and the end of the text), independent, then sorted; the middle may be empty. None with probability
    1 - fim.rate.
    """
    if rng.random() >= fim.rate:
        return None
    order: Order = "psm" if rng.random() < fim.psm_share else "spm"
    if fim.cut == "line":
        begins = sorted({0, *(match.end() for match in re.finditer("\n", text)), len(text)})
        start, end = sorted(begins[x] for x in rng.integers(0, len(begins), size=2))
    else:
        start, end = sorted(int(x) for x in rng.integers(0, len(text) + 1, size=2))
    return Cut(order, start, end)


def encode_plain(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """BOS text EOS, int32."""
    return _joined([tokenizer.bos_id], tokenizer.encode(text), [tokenizer.eos_id])


def encode_cut(tokenizer: Tokenizer, text: str, cut: Cut) -> np.ndarray:
    """The document in the infilling form, int32: the prompt of inference, then the middle, EOT and EOS.

    Raises:
        UserError: the tokenizer has no infilling ids.
    """
    prefix, middle, suffix = cut.parts(text)
    if cut.order == "psm":
        prompt = tokenizer.infilling_prompt(prefix, suffix, "psm")
        completion = tokenizer.encode_continuation(middle)
    else:
        # the prompt of an empty prefix ends in MID; prefix and middle follow as one text
        prompt = tokenizer.infilling_prompt("", suffix, "spm")
        completion = tokenizer.encode(prefix + middle)
    return _joined(prompt, completion, [tokenizer.eot_id, tokenizer.eos_id])


def _joined(*parts: Sequence[int | None] | np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(part, np.int32) for part in parts])
