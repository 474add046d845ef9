"""Which of the dialogue formats a model was trained on, from what its checkpoint carries."""

from typing import NamedTuple

from codellama_jax.config.data import TEMPLATE
from codellama_jax.conversion.chat_templates import TEMPLATES
from codellama_jax.tokenizer import INFILLING_ROWS, STEP_PIECE
from codellama_jax.tokenizer.companions import Companions
from codellama_jax.training import assets
from codellama_jax.training.assets import Assets
from codellama_jax.training.lineage import Lineage

# What the templates of a format contain, in other files than the exports of this project. Mistral's has only [INST].
_MARKS = {"inst": ("[INST]", "<<SYS>>"), "source": ("Source: ", "<step>")}


class ChatFormat(NamedTuple):
    """The dialogue format of a model.

    Attributes:
        name: "inst" or "source", or "template": the checkpoint has a chat template of another format.
        stated: whether the checkpoint states it. Otherwise the model has probably not been trained on dialogues.
    """

    name: str
    stated: bool


def of_checkpoint(files: Assets, lineage: Lineage, pieces: int) -> ChatFormat:
    """The dialogue format of a checkpoint: that of its last stage with dialogues, or else of its chat template.

    Without either, it is "source" if the last infilling row is named <step>, and otherwise "inst".

    Args:
        files: what the checkpoint carries.
        lineage: what it records.
        pieces: number of pieces of its tokenizer.

    Raises:
        UserError: a file is damaged.
    """
    if lineage.dialogues is not None:
        return ChatFormat(lineage.dialogues, stated=True)
    if (template := Companions(files).chat_template) is not None:
        return ChatFormat(next((name for name in TEMPLATES if _is_of(template, name)), TEMPLATE), stated=True)
    named_step = assets.tokens(files).get(pieces + INFILLING_ROWS - 1) == STEP_PIECE
    return ChatFormat("source" if lineage.step or named_step else "inst", stated=False)


def _is_of(template: str, name: str) -> bool:
    return template == TEMPLATES[name] or all(mark in template for mark in _MARKS[name])
