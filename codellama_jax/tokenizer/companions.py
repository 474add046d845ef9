"""What the files beside a tokenizer state: special tokens by name, added tokens, the chat template, ends of answers.

Hugging Face's libraries write them next to tokenizer.json or tokenizer.model. All of them are optional.
"""

import json
from collections.abc import Mapping
from typing import Any

from codellama_jax.errors import UserError

CONFIG, SPECIAL_TOKENS, ADDED_TOKENS = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
GENERATION = "generation_config.json"
TEMPLATES = ("chat_template.jinja", "chat_template.json")  # these come before the template in tokenizer_config.json
NAMES = (CONFIG, SPECIAL_TOKENS, ADDED_TOKENS, GENERATION, *TEMPLATES)

_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


class Companions:
    """The files beside a tokenizer, by name.

    Attributes:
        config: the content of tokenizer_config.json.
        token_names: the names of special tokens by their role, such as {"bos_token": "<s>"}; a role without a token is
            absent.
        added_tokens: ids of added tokens by name, as tokenizer_config.json and added_tokens.json list them.
        chat_template: the template of dialogues; of several, the one named "default".
        end_ids: the ids that end an answer, as generation_config.json lists them.
    """

    def __init__(self, files: Mapping[str, bytes]):
        """Reads the files. Raises UserError if one is damaged."""
        self.config = parsed(files, CONFIG)
        special = parsed(files, SPECIAL_TOKENS)
        self.token_names: dict[str, str] = {}
        for role in _TOKENS:
            # an explicit null in tokenizer_config.json says that there is none
            token = self.config[role] if role in self.config else special.get(role)
            name = token.get("content") if isinstance(token, dict) else token
            if isinstance(name, str):
                self.token_names[role] = name
        try:
            decoder = self.config.get("added_tokens_decoder") or {}
            self.added_tokens = {token["content"]: int(id) for id, token in decoder.items()}
            self.added_tokens |= {name: int(id) for name, id in parsed(files, ADDED_TOKENS).items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"the tokenizer files of the checkpoint are damaged ({error}): fetch them again") from None
        ends = parsed(files, GENERATION).get("eos_token_id")
        listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
        self.end_ids = tuple(id for id in listed if isinstance(id, int))
        self.chat_template = self._template(files)

    def infilling_names(self) -> tuple[str, str, str, str] | None:
        """The names of prefix, suffix, middle and end of infilling, if tokenizer_config.json states all four."""
        extra = self.config.get("extra_special_tokens")
        stated = (extra if isinstance(extra, dict) else {}) | self.config
        names = [stated.get(f"{role}_token") for role in ("prefix", "suffix", "middle", "eot")]
        names = [name.get("content") if isinstance(name, dict) else name for name in names]
        return tuple(names) if all(isinstance(name, str) for name in names) else None  # type: ignore[return-value]

    def _template(self, files: Mapping[str, bytes]) -> str | None:
        for name in TEMPLATES:
            if name in files and name.endswith(".jinja"):
                return files[name].decode("utf-8", "replace")
            if name in files:
                return default_template(parsed(files, name).get("chat_template"))
        return default_template(self.config.get("chat_template"))


def default_template(templates: Any) -> str | None:
    """The template itself, or the one with the name "default" of a list of templates; None if there is none."""
    if isinstance(templates, list):
        named = {entry.get("name"): entry.get("template") for entry in templates if isinstance(entry, dict)}
        templates = named.get("default", next(iter(named.values()), None))
    return templates if isinstance(templates, str) and templates else None


def parsed(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The object in a JSON file; an empty one if there is no such file. Raises UserError if it is something else."""
    try:
        content = json.loads(files.get(name, b"{}"))
    except ValueError as error:
        raise UserError(f"{name} is not JSON ({error}): fetch it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} is not a JSON object: fetch it again")
    return content
