"""Which tokenizer files, chat template and generation defaults an import keeps and an export has.

What a checkpoint carries comes out again as it came in. A file changes only where the model has changed: infilling rows
that the tokenizer does not name, dialogues that were trained in another format, longer windows. Files that nothing
carries are generated.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from codellama_jax import chat_template
from codellama_jax.config.data import TEMPLATE
from codellama_jax.conversion import tokenizer_agreement, tokenizer_files
from codellama_jax.conversion.canonical import Model
from codellama_jax.conversion.chat_templates import TEMPLATES
from codellama_jax.errors import UserError
from codellama_jax.tokenizer import (
    BOS_ID,
    EOS_ID,
    INFILLING_ROWS,
    JSON,
    STEP_PIECE,
    SentencePieceTokenizer,
    Tokenizer,
    from_files,
    open_tokenizer,
)
from codellama_jax.tokenizer.companions import parsed
from codellama_jax.tokenizer.opening import read_files
from codellama_jax.training import assets
from codellama_jax.training.assets import Assets
from codellama_jax.training.lineage import SPECIAL_IDS, Lineage

_HF_FILES = (assets.TOKENIZER_JSON, assets.TOKENIZER_CONFIG, assets.SPECIAL_TOKENS, assets.ADDED_TOKENS)


class Files(NamedTuple):
    """Files to write, and messages for the user.

    Attributes:
        files: path in the folder -> content.
        messages: what was added, changed, or could not be carried; one line each.
        special_ids: those of SPECIAL_IDS that config.json of an export states.
    """

    files: Assets
    messages: list[str]
    special_ids: Mapping[str, Any] = {}


def replace_tokenizer(files: Assets, path: Path | None) -> Files:
    """The carried files with another tokenizer (--tokenizer=PATH); unchanged without one."""
    if path is None:
        return Files(files, [])
    tokenizer = open_tokenizer(path, infilling=False)
    carried = dict(files)
    if tokenizer.file_name == JSON:
        new = read_files(path)
        dropped = [name for name in assets.TOKENIZER_FILES if name in carried and carried.pop(name) != new.get(name)]
        theirs = {name: content for name, content in new.items() if name in assets.TOKENIZER_FILES}
        carried = new | carried | theirs  # its other files where the checkpoint has none
        carried.pop(assets.MODEL, None)
    else:
        own = carried.get(assets.MODEL)
        same = own is not None and SentencePieceTokenizer(own, infilling=False).model == tokenizer.model
        dropped = [] if same else [name for name in _HF_FILES if carried.pop(name, None) is not None]
        carried[assets.MODEL] = read_files(path)[assets.MODEL]
    if dropped:
        return Files(carried, [f"not carried, because --tokenizer names another tokenizer: {', '.join(dropped)}"])
    return Files(carried, [])


def imported(files: Assets, lineage: Lineage, model: Model, rows: int) -> tuple[Lineage, list[str]]:
    """What an import records, and what it reports.

    Args:
        files: the files that it carries.
        lineage: of the checkpoint that is imported.
        model: the imported model.
        rows: rows of the vocabulary in the original checkpoint, before any were added.

    Raises:
        UserError: the tokenizer has more tokens than the model has rows.
    """
    lineage = dataclasses.replace(lineage, positions=model.sequence_length)
    total = model.llama.vocab_size
    tokenizer = _tokenizer(files, total)
    plain = tokenizer if isinstance(tokenizer, SentencePieceTokenizer) else None
    tokenizer_agreement.check_names(files, plain.pieces if plain else total)
    messages = tokenizer_agreement.differences(files, lineage.special_ids)
    if tokenizer is None:
        return lineage, messages
    if plain is None:
        return lineage, [*messages, *_padding(assets.named_rows(files, total), total)]
    pieces = plain.pieces
    free = not assets.other_infilling_tokens(files, pieces)
    infilling = bool(plain.extra_pieces) or lineage.infilling
    infilling |= free and (pieces + INFILLING_ROWS in (rows, total) or rows == pieces <= total - INFILLING_ROWS)
    named = assets.named_rows(files, total)
    named = max(named, pieces + INFILLING_ROWS) if infilling else named
    if infilling and not plain.extra_pieces and rows < total:
        messages.append(f"rows {pieces} to {pieces + INFILLING_ROWS - 1} are those of infilling, which a stage trains")
    return dataclasses.replace(lineage, infilling=infilling), [*messages, *_padding(named, total)]


def _padding(named: int, total: int) -> list[str]:
    """A line if the last rows of a model have no token."""
    if named >= total:
        return []
    rows = f"rows {named} to {total - 1} are" if named < total - 1 else f"row {named} is"
    return [f"{rows} padding, without a token: a stage does not train them"]


def _tokenizer(files: Assets, rows: int) -> Tokenizer | None:
    """The tokenizer that is carried, without infilling; None if there is none.

    Raises:
        UserError: it has more pieces than the model has rows.
    """
    if assets.MODEL not in files and JSON not in files:
        return None
    tokenizer = from_files(
        files, infilling=False, name=f"{assets.MODEL if assets.MODEL in files else JSON} of the checkpoint"
    )
    extra = tokenizer.extra_pieces if isinstance(tokenizer, SentencePieceTokenizer) else []
    pieces = tokenizer.pieces + len(extra)
    if pieces > rows:
        raise UserError(
            f"{tokenizer.file_name} has {pieces} pieces, but the model has {rows} rows: pass the model's own tokenizer"
            " with --tokenizer=PATH"
        )
    return tokenizer


def exported(files: Assets, lineage: Lineage, model: Model, format: str, trained: bool) -> Files:
    """The files of an export next to its tensors.

    Args:
        files: the files that the checkpoint carries.
        lineage: what it records.
        model: the model.
        format: "hf" or "meta".
        trained: whether training wrote it. The files of an import do not change.

    Raises:
        UserError: the tokenizer has more pieces than the model has rows, or a file is damaged.
    """
    tokenizer = _tokenizer(files, model.llama.vocab_size)
    export = _Export(files, lineage, model, tokenizer)
    if isinstance(tokenizer, SentencePieceTokenizer):
        export.add_infilling(tokenizer)
    elif format == "meta" or not any(name in files for name in _HF_FILES):
        export.messages.append("the checkpoint has no tokenizer: --tokenizer=PATH adds its files")
    if format == "meta":
        left = [name for name in files if name != assets.MODEL] + ["the chat template"] * bool(lineage.dialogues)
        if left:
            export.messages.append(f"not carried, because Meta's format has no place for it: {', '.join(sorted(left))}")
        return Files({name: export.files[name] for name in export.files if name == assets.MODEL}, export.messages)
    if lineage.dialogues:
        export.add_chat_template(lineage.dialogues)
    if trained:
        export.raise_model_max_length()
    export.update_generation_config()
    special_ids = export.special_ids()
    special_ids["eos_token_id"] = export.end_ids(special_ids["eos_token_id"])
    return Files(export.files, export.messages, special_ids)


class _Export:
    """The files of an export while they are put together."""

    def __init__(self, files: Assets, lineage: Lineage, model: Model, tokenizer: Tokenizer | None):
        self.files, self.messages = dict(files), list[str]()
        self._tokenizer = tokenizer
        # without a tokenizer, Llama's
        self._bos_id, self._eos_id = (BOS_ID, EOS_ID) if tokenizer is None else (tokenizer.bos_id, tokenizer.eos_id)
        self._lineage, self._model = lineage, model
        self._step_id: int | None = None  # of <step>, if dialogues end with it

    def add_infilling(self, plain: SentencePieceTokenizer) -> None:
        """Names the infilling ids if the model has them and the files do not, and generates files that are missing."""
        rows, step = self._model.llama.vocab_size, self._lineage.step
        free = not assets.other_infilling_tokens(self.files, plain.pieces)
        possible = free and rows >= plain.pieces + INFILLING_ROWS
        trained = self._lineage.infilling or rows == plain.pieces + INFILLING_ROWS
        tokenizer = SentencePieceTokenizer(plain.model, bool(plain.extra_pieces) or (possible and trained))
        names = plain.extra_pieces or tokenizer_files.infilling_names()
        if step and tokenizer.infilling:
            names = [*names[:-1], STEP_PIECE]
            self._step_id = tokenizer.step_id
        before = self.files[assets.MODEL]
        if not plain.extra_pieces:
            self.files[assets.MODEL] = tokenizer_files.sentencepiece_model(tokenizer, names)
        elif names != plain.extra_pieces:
            self.files[assets.MODEL] = tokenizer_files.with_step(before)
        if not any(name in self.files for name in _HF_FILES):
            self.files = tokenizer_files.generated(tokenizer, names) | self.files
        elif self.files[assets.MODEL] != before:
            self._name_pieces(tokenizer, names)

    def _name_pieces(self, tokenizer: SentencePieceTokenizer, names: Sequence[str]) -> None:
        """Gives the infilling ids their names in the files of Hugging Face that are carried."""
        added = {token["id"]: token for token in tokenizer_files.special_tokens(tokenizer, names)}
        if assets.TOKENIZER_JSON in self.files:
            content = parsed(self.files, assets.TOKENIZER_JSON)
            ids = {name: tokenizer.pieces + number for number, name in enumerate(names)}
            vocabulary = {text: id for text, id in content["model"]["vocab"].items() if id not in ids.values()}
            content["model"]["vocab"] = vocabulary | ids
            kept = [token for token in content.get("added_tokens") or [] if token["id"] not in added]
            content["added_tokens"] = sorted([*kept, *added.values()], key=lambda token: token["id"])
            self.files[assets.TOKENIZER_JSON] = _json(content)
        config = parsed(self.files, assets.TOKENIZER_CONFIG)
        if "added_tokens_decoder" in config:
            for id, token in added.items():
                config["added_tokens_decoder"][str(id)] = {key: value for key, value in token.items() if key != "id"}
            self.files[assets.TOKENIZER_CONFIG] = _json(config)
        self.messages.append(f"named in the tokenizer that was imported: the infilling ids from {tokenizer.pieces} on")

    def add_chat_template(self, chat_format: str) -> None:
        """Adds the template of the dialogues that the model was trained on; replaces another one.

        The format "template" is that of the files, which stay as they are.
        """
        if chat_format == TEMPLATE:
            return
        if assets.TOKENIZER_CONFIG not in self.files:
            self.messages.append("not exported, because there is no tokenizer_config.json: the chat template")
            return
        config = parsed(self.files, assets.TOKENIZER_CONFIG)
        replaced = [name for name in self.files if name.endswith(".jinja") or name in assets.TEMPLATE_FILES]
        for name in replaced:
            del self.files[name]
        template = TEMPLATES[chat_format]
        if config.get("chat_template", template) != template:
            replaced.append("chat_template")
        config["chat_template"] = template
        if replaced:
            self.messages.append(
                f"replaced by the dialogue format that the model was trained on, {chat_format}: {', '.join(replaced)}"
            )
        if chat_format == "source" and self._step_id is not None:  # ends an answer
            config["eos_token"] = STEP_PIECE
            if assets.SPECIAL_TOKENS in self.files:
                special = parsed(self.files, assets.SPECIAL_TOKENS)
                self.files[assets.SPECIAL_TOKENS] = _json(special | {"eos_token": STEP_PIECE})
        self.files[assets.TOKENIZER_CONFIG] = _json(config)

    def raise_model_max_length(self) -> None:
        """Raises model_max_length to the number of positions, if the stages had longer windows than the import."""
        config, positions = parsed(self.files, assets.TOKENIZER_CONFIG), self._model.sequence_length
        if config.get("model_max_length", positions) < positions:
            self.files[assets.TOKENIZER_CONFIG] = _json(config | {"model_max_length": positions})

    def update_generation_config(self) -> None:
        """Adds the ids that end an answer to a generation_config.json that is carried.

        None is generated: without it, transformers and vLLM take the ids in config.json, so an edit there counts.
        """
        if assets.GENERATION not in self.files:
            return
        config = parsed(self.files, assets.GENERATION)
        ends = self.end_ids(config.get("eos_token_id"))
        if ends != config.get("eos_token_id"):
            self.files[assets.GENERATION] = _json(config | {"eos_token_id": ends})

    def special_ids(self) -> dict[str, Any]:
        """The ids of special tokens: those of the import, and the tokenizer's."""
        named = {key: value for key, value in self._model.notes.items() if key in SPECIAL_IDS}
        return {"bos_token_id": self._bos_id, "eos_token_id": self._eos_id} | named

    def end_ids(self, eos: int | list[int] | None) -> int | list[int] | None:
        """`eos`, and the ids that end an answer in the dialogues that the model was trained on: EOS and <step>, or the
        template's."""
        needed = [self._eos_id] if self._lineage.dialogues else []
        if self._lineage.dialogues == TEMPLATE and self._tokenizer is not None:
            needed = [*chat_template.end_ids(self._tokenizer)]
        if self._lineage.dialogues == "source" and self._step_id is not None:
            needed.append(self._step_id)
        listed = tokenizer_agreement.as_list(eos)
        missing = [id for id in needed if id not in listed]
        return [*listed, *missing] if missing else eos


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
