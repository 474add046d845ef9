"""Whether the files of an imported tokenizer agree with each other, and with config.json.

The names of ids must agree: transformers reads tokenizer.json, and llama.cpp and this project read tokenizer.model.
The ids that begin and end a text often differ on purpose, such as an end of answers in generation_config.json. They are
carried as they are, and reported, because readers take different ones.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from codellama_jax.errors import UserError
from codellama_jax.tokenizer.companions import parsed
from codellama_jax.training import assets
from codellama_jax.training.assets import Assets
from codellama_jax.training.lineage import SPECIAL_IDS


def check_names(files: Assets, pieces: int) -> None:
    """Checks that no two places name an id differently.

    Args:
        files: the files that an import carries.
        pieces: pieces of the tokenizer without those of infilling, which have other names in some files of 70B.

    Raises:
        UserError: two places do; the message has both, or a file is damaged.
    """
    first: dict[int, tuple[str, str]] = {}
    for place, names in assets.names_by_place(files).items():
        for id, text in names.items():
            if id >= pieces and place in (assets.MODEL, assets.TOKENIZER_JSON):
                continue
            other, expected = first.setdefault(id, (place, text))
            if text != expected:
                raise UserError(
                    f"{other} names id {id} {expected!r}, but {place} names it {text!r}: readers take different ones;"
                    " correct or remove the wrong file"
                )


def differences(files: Assets, special_ids: Mapping[str, Any]) -> list[str]:
    """A line for each special token, and for a chat template, that two files state differently.

    Args:
        files: the files that an import carries.
        special_ids: the values of SPECIAL_IDS in its config.json.
    """
    lines = []
    for key in SPECIAL_IDS:
        stated = [("config.json", special_ids.get(key)), *_stated(files, key)]
        known = [(place, value) for place, value in stated if value is not None]
        differing = [
            f"{json.dumps(value)} in {place}" for place, value in known if as_list(value) != as_list(known[0][1])
        ]
        if differing:
            lines.append(
                f"{key} is {json.dumps(known[0][1])} in {known[0][0]}, but {' and '.join(differing)}: readers take"
                " different ones; all are carried"
            )
    template = parsed(files, assets.TOKENIZER_CONFIG).get("chat_template")
    for name in assets.TEMPLATE_FILES:
        if template is not None and name in files and files[name].decode(errors="replace") != template:
            lines.append(f"{name} and {assets.TOKENIZER_CONFIG} have different chat templates: both are carried")
    return lines


def _stated(files: Assets, key: str) -> Iterator[tuple[str, Any]]:
    """The ids of a special token in the files other than config.json, each with its place."""
    yield assets.GENERATION, parsed(files, assets.GENERATION).get(key)
    ids = {text: id for id, text in assets.tokens(files).items()}
    for name in (assets.TOKENIZER_CONFIG, assets.SPECIAL_TOKENS):
        token = parsed(files, name).get(key.removesuffix("_id"))
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            yield name, ids.get(text)


def as_list(ids: int | list[int] | None) -> list[int]:
    """The ids of a value that is one id, several, or none."""
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
