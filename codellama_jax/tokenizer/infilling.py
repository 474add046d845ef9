"""The tokens that mark a hole in a text, by the names and the forms in which each family of models was trained.

All families write a hole as one of

    psm  PRE prefix SUF suffix MID middle END
    spm  PRE SUF suffix MID prefix middle END

after the token that begins a text, if there is one. They differ in the names of the four tokens, in the order that
they were trained on, and in the end: Code Llama and CodeGemma have a token for it, the others write the end of a text.

DeepSeek-Coder calls them begin, hole and end: <｜fim▁begin｜> prefix <｜fim▁hole｜> suffix <｜fim▁end｜> middle.
So its "hole" is SUF and its "end" is MID. Here prefix and middle of the order spm are always encoded as one text, as
in Code Llama (arXiv 2308.12950, section 2.3); StarCoder's training encoded them separately.
"""

import dataclasses
from collections.abc import Container, Mapping
from typing import Literal

Order = Literal["psm", "spm"]


@dataclasses.dataclass(frozen=True)
class Markers:
    """Names of the tokens of a hole.

    Attributes:
        prefix, suffix, middle: the tokens before the prefix, the suffix and the middle.
        end: the token after the middle.
        orders: the orders in which the models with these names were trained; prompts use the first one by default.
    """

    prefix: str
    suffix: str
    middle: str
    end: str
    orders: tuple[Order, ...] = ("spm", "psm")

    @property
    def in_prompts(self) -> tuple[str, str, str]:
        """Prefix, suffix and middle as the text of a raw prompt has them: Code Llama's with blanks beside them."""
        if self.prefix.startswith("▁"):
            return "<PRE> ", " <SUF>", " <MID>"
        return self.prefix, self.suffix, self.middle

    @property
    def names(self) -> tuple[str, str, str, str]:
        """The four names."""
        return self.prefix, self.suffix, self.middle, self.end


# Of two families with the same first three names, the one that has the rarer end comes first.
FAMILIES: Mapping[str, Markers] = {
    "Code Llama": Markers("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
    # the rows that this project adds to a tokenizer.json without such tokens
    "added rows": Markers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_end|>"),
    # trained on both orders (its report); the model card shows psm only
    "CodeGemma": Markers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_separator|>", ("psm", "spm")),
    "Qwen2.5-Coder": Markers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>", ("psm",)),
    # also StarCoder2 and Granite; half of the transformed files in each order (arXiv 2305.06161)
    "StarCoder": Markers("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>", ("psm", "spm")),
    "SantaCoder": Markers("<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<|endoftext|>", ("psm", "spm")),
    # arXiv 2401.14196, section 3.1.2: psm for half of the files
    "DeepSeek-Coder": Markers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", "<｜end▁of▁sentence｜>", ("psm",)),
}
ADDED = FAMILIES["added rows"]

# Tokens between files and the like in the training of these families: what a model writes in a hole ends before them.
SEPARATORS: tuple[str, ...] = (
    "<|fim_pad|>",
    "<|file_sep|>",
    "<|repo_name|>",
    "<|file_separator|>",
    "<fim_pad>",
    "<file_sep>",
)
SEPARATORS += ("<filename>", "<reponame>", "<repo_name>")


def find_markers(names: Container[str]) -> Markers | None:
    """The markers of the first family whose four names all exist; None if there is none."""
    return next((markers for markers in FAMILIES.values() if all(name in names for name in markers.names)), None)
