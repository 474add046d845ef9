"""The files that a checkpoint carries from an import, through the stages, to an export.

These are the tokenizer's files, the chat template and the generation defaults. They are small, and are kept as they
came, byte for byte: a checkpoint has them in its folder `assets`, and a stage saves those of its parent with its own
checkpoints. (An import keeps tokenizer.model next to that folder.)
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem
from codellama_jax.tokenizer import HELPERS, INFILLING_PIECES, INFILLING_ROWS, STEP_PIECE
from codellama_jax.tokenizer.companions import parsed

FOLDER = "assets"
MODEL, GENERATION = "tokenizer.model", "generation_config.json"
TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL_TOKENS, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
TOKENIZER_FILES = (MODEL, TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS)
_DECODER, _LISTED = f"{TOKENIZER_CONFIG} (added_tokens_decoder)", f"{TOKENIZER_JSON} (added_tokens)"
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
TEMPLATE_FOLDERS = ("additional_chat_templates", "chat_templates")  # of transformers 5, and of earlier versions

Assets = Mapping[str, bytes]  # path in the folder -> content


def find(folder: Path) -> dict[str, bytes]:
    """The files of a model folder in another format that a checkpoint carries."""
    names = [*TOKENIZER_FILES, *TEMPLATE_FILES, GENERATION]
    for subfolder in TEMPLATE_FOLDERS:
        listed = filesystem.list_folder(folder / subfolder)
        names += [f"{subfolder}/{name}" for name in listed if name.endswith(".jinja")]
    paths = {name: folder.joinpath(*name.split("/")) for name in names}
    return {name: filesystem.read_bytes(path) for name, path in paths.items() if path.is_file()}


def read(checkpoint: Path) -> dict[str, bytes]:
    """The files that a checkpoint of this project carries; empty if an earlier version wrote it without any."""
    files = find(checkpoint / FOLDER)
    if (checkpoint / MODEL).is_file():
        files[MODEL] = filesystem.read_bytes(checkpoint / MODEL)
    return files


def write(files: Assets, folder: Path) -> None:
    """Writes files to a folder, which exists."""
    for name, content in files.items():
        path = folder.joinpath(*name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def names_by_place(files: Assets) -> dict[str, dict[int, str]]:
    """The tokens that each place in the tokenizer's files names, by id: pieces, and added tokens.

    Raises:
        UserError: a file is damaged.
    """
    named: dict[str, dict[int, str]] = {}
    try:
        if MODEL in files:
            proto = model_pb2.ModelProto.FromString(files[MODEL])  # type: ignore[attr-defined]  # made at import
            named[MODEL] = {id: piece.piece for id, piece in enumerate(proto.pieces)}
        vocabulary = parsed(files, TOKENIZER_JSON).get("model", {}).get("vocab", {})
        if isinstance(vocabulary, dict):  # a list in models other than BPE
            named[TOKENIZER_JSON] = {int(id): piece for piece, id in vocabulary.items()}
        named[ADDED_TOKENS] = {int(id): text for text, id in parsed(files, ADDED_TOKENS).items()}
        decoder = parsed(files, TOKENIZER_CONFIG).get("added_tokens_decoder") or {}
        named[_DECODER] = {int(id): token["content"] for id, token in decoder.items()}
        listed = parsed(files, TOKENIZER_JSON).get("added_tokens") or []
        named[_LISTED] = {int(token["id"]): token["content"] for token in listed}
    except (DecodeError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"the tokenizer files of the checkpoint are damaged ({error}): fetch them again") from None
    return named


def tokens(files: Assets) -> dict[int, str]:
    """The tokens that the tokenizer's files name, by id. Raises as `names_by_place`."""
    return {id: text for names in names_by_place(files).values() for id, text in names.items()}


def added_tokens(files: Assets) -> dict[int, str]:
    """The added tokens that the files name, by id. Raises as `names_by_place`."""
    named = names_by_place(files)
    return named[ADDED_TOKENS] | named[_DECODER] | named[_LISTED]


def named_rows(files: Assets, rows: int) -> int:
    """How many of the rows of a model the tokenizer's files name, up to the last that has a name.

    Names beyond the rows do not count: files of Code Llama have <FILL_ME> there, which no model reads.

    Raises:
        UserError: a file is damaged.
    """
    return max((id for id in tokens(files) if id < rows), default=-1) + 1


def other_infilling_tokens(files: Assets, pieces: int) -> dict[int, str]:
    """The added tokens, by id, that have ids of infilling after a vocabulary of `pieces` pieces, but other names."""
    markers = dict(enumerate(INFILLING_PIECES[HELPERS:], pieces + HELPERS))
    step = pieces + INFILLING_ROWS - 1
    return {
        id: text
        for id, text in added_tokens(files).items()
        if pieces <= id <= step and text != markers.get(id) and (id, text) != (step, STEP_PIECE)
    }


class AssetsHandler(ocp.CheckpointHandler):
    """Writes the files of an Orbax item. They are read without Orbax, by `read`."""

    def save(self, directory: Any, args: "SaveAssets") -> None:
        if jax.process_index() == 0:
            write(args.files, directory)

    def restore(self, directory: Any, args: Any = None) -> Any:
        raise NotImplementedError("assets.read reads these files")


@ocp.args.register_with_handler(AssetsHandler, for_save=True, for_restore=True)  # Orbax requires both
@dataclasses.dataclass
class SaveAssets(ocp.args.CheckpointArgs):
    """Arguments for Orbax: saves these files as an item."""

    files: Assets
