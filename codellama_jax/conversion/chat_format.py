"""Which of the two dialogue formats a model was trained on, from what its checkpoint carries."""

from typing import Any, NamedTuple

from codellama_jax.conversion.chat_templates import TEMPLATES
from codellama_jax.tokenizer import INFILLING_ROWS, STEP_PIECE
from codellama_jax.training import assets
from codellama_jax.training.assets import Assets
from codellama_jax.training.lineage import Lineage

# What the templates of a format contain, in other files than the exports of this project. Mistral's has only [INST].
_MARKS = {"inst": ("[INST]", "<<SYS>>"), "source": ("Source: ", "<step>")}


class ChatFormat(NamedTuple):
    """The dialogue format of a model.

    Attributes:
        name: "inst" or "source"; None: the checkpoint has a chat template of another format.
        stated: whether the checkpoint states it. Otherwise the model has probably not been trained on dialogues.
    """

    name: str | None
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
    if (template := _template(files)) is not None:
        return ChatFormat(next((name for name in TEMPLATES if _is_of(template, name)), None), stated=True)
    named_step = assets.tokens(files).get(pieces + INFILLING_ROWS - 1) == STEP_PIECE
    return ChatFormat("source" if lineage.step or named_step else "inst", stated=False)


def _is_of(template: str, name: str) -> bool:
    return template == TEMPLATES[name] or all(mark in template for mark in _MARKS[name])


def _template(files: Assets) -> str | None:
    """The chat template that transformers takes: that of a file of its own comes before tokenizer_config.json."""
    for name in assets.TEMPLATE_FILES:
        if name.endswith(".jinja") and name in files:
            return files[name].decode("utf-8", "replace")
        if name in files:
            return _default(assets.parsed(files, name).get("chat_template"))
    return _default(assets.parsed(files, assets.TOKENIZER_CONFIG).get("chat_template"))


def _default(templates: Any) -> str | None:
    """The template itself, or the one with the name "default" of a list of templates."""
    if isinstance(templates, list):
        named = {entry.get("name"): entry.get("template") for entry in templates if isinstance(entry, dict)}
        templates = named.get("default", next(iter(named.values()), None))
    return templates if isinstance(templates, str) and templates else None
