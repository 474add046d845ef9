"""Opens a checkpoint of any format for generation: its weights, tokenizer and limits."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from codellama_jax.config.data import TEMPLATE
from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical, chat_format, formats, peft
from codellama_jax.conversion.adapters import read_factors
from codellama_jax.conversion.canonical import Tensor
from codellama_jax.conversion.native import Training
from codellama_jax.errors import UserError
from codellama_jax.generation import forward, shards
from codellama_jax.generation.adapters import Adapter, with_adapters
from codellama_jax.runtime import filesystem
from codellama_jax.tokenizer import INFILLING_ROWS, JSON, MODEL, Tokenizer, companions, from_files, names_infilling
from codellama_jax.tokenizer.opening import read_files
from codellama_jax.training import assets
from codellama_jax.training.assets import Assets

_log = logging.getLogger(__name__)
_PADDING = 1_024  # rows; vocabularies are padded to a multiple of at most so many


@dataclasses.dataclass(frozen=True)
class GenerationModel:
    """A model that is ready to generate.

    Attributes:
        llama: shape and numerics.
        weights: from forward.weights_of.
        tokenizer: with infilling ids if the model has rows for them.
        context: the longest window of its training, in tokens.
        format: the format of the checkpoint.
        name: "NAME-STAGE" of a stage's folder runs/NAME/STAGE, otherwise the name of the folder or file.
        chat_format: "inst", "source" or "template".
        dialogues: whether the checkpoint states a format of dialogues, which a model that was trained on them does.
        mesh: the devices of the weights (generation/shards.py); None: one device.
        training: what its parameters went through, if training of this project wrote it.
        adapters: names of the adapters beside it, in the order of their numbers from 1 (generation/adapters.py).
    """

    llama: Llama
    weights: forward.Weights
    tokenizer: Tokenizer
    context: int
    format: str
    name: str
    chat_format: str
    dialogues: bool
    mesh: Mesh | None = None
    training: Training | None = None
    adapters: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of the weights."""
        import jax

        return sum(array.nbytes for array in jax.tree.leaves(self.weights))

    def dialogue_format(self, chosen: str | None = None) -> str:
        """The format of dialogues: `chosen`, or the model's own.

        Raises:
            UserError: the model lacks the id, or the chat template, that the format needs.
        """
        name = chosen or self.chat_format
        if name == TEMPLATE and self.tokenizer.chat_template is None:
            raise UserError(f"{self.name} has no chat template: --chat_format=inst|source chooses another format")
        if name == "source" and self.tokenizer.step_id is None:
            raise UserError(f"{self.name} has no infilling rows, so no <step>, which the format 'source' needs")
        return name


def open_model(
    path: Path,
    tokenizer: Path | None,
    dtype: str | None,
    tensor: int = 0,
    adapters: Mapping[str, Path] | None = None,
) -> GenerationModel:
    """Opens a checkpoint. Its weights go to their devices one layer at a time, each device's part of it.

    Args:
        path: a stage's folder, a checkpoint, or a folder of another format (formats.open_checkpoint).
        tokenizer: a tokenizer.model or tokenizer.json; None takes that of the checkpoint.
        dtype: the dtype of matrices, activations and cache; None: float32 on a CPU, bfloat16 elsewhere.
        tensor: number of devices over which the model is cut; 0: see shards.serving_mesh.
        adapters: name -> a checkpoint of adapters of this model, or a folder of peft.

    Raises:
        UserError: there is no checkpoint, it is damaged, it has no tokenizer, the named tokenizer is not
            its own, `tensor` does not divide it, or an adapter belongs to another model.
    """
    import jax

    opened = formats.open_checkpoint(path)
    source, model = opened.source, opened.source.model
    files = _tokenizer_files(path, opened.files, tokenizer)
    plain, rows = from_files(files, infilling=False, name=str(tokenizer or path)), model.llama.vocab_size
    pieces = plain.rows
    if rows < pieces:
        name = tokenizer or plain.file_name
        raise UserError(f"{name} has {pieces:,} pieces, but {path} has {rows:,} rows: name the model's own --tokenizer")
    if rows > pieces + INFILLING_ROWS + _PADDING:
        _log.warning(
            "warning: %s has %s pieces, and %s has %s rows: a tokenizer of another model gives senseless text",
            *(tokenizer or plain.file_name, f"{pieces:,}", path, f"{rows:,}"),
        )
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    llama = dataclasses.replace(model.llama, compute_dtype=dtype)

    def read(name: str, layer: int | None) -> np.ndarray:
        out = canonical.shape(llama, name)[0]
        return canonical.to_native(llama, name, source.rows(Tensor(name, layer), 0, out))

    found = [_adapter(folder, path, llama) for folder in (adapters or {}).values()]
    mesh = shards.serving_mesh(llama, tensor)
    weights = with_adapters(forward.weights_of(read, llama, mesh), found, llama, mesh)
    source.close()
    if plain.file_name == JSON:
        infilling = plain.rows <= rows and names_infilling(files)
    else:
        infilling = rows >= pieces + INFILLING_ROWS and not assets.other_infilling_tokens(opened.files, pieces)
    chat = chat_format.of_checkpoint(opened.files, opened.lineage, pieces)
    return GenerationModel(
        llama,
        weights,
        from_files(files, infilling, name=str(tokenizer or path)) if infilling else plain,
        opened.lineage.positions,
        opened.format,
        model_name(path),
        chat.name,
        chat.stated,
        mesh,
        opened.training,
        tuple(adapters or ()),
    )


def _adapter(folder: Path, base: Path, llama: Llama) -> Adapter:
    """An adapter of the model at `base`. Raises UserError if it belongs to another one."""
    if peft.is_adapter(folder):
        lora, factors = peft.read(folder, llama)
    else:
        lora, factors = read_factors(folder, formats.folder(base), llama)
    return Adapter(factors, lora.scale)


def _tokenizer_files(path: Path, own: Assets, named: Path | None) -> Assets:
    """The files of a checkpoint's tokenizer: its own, or else the one that is named."""
    has_own = MODEL in own or JSON in own
    if named is None:
        if not has_own:
            raise UserError(f"{path} has no tokenizer.model and no tokenizer.json: --tokenizer=PATH names one")
        return own
    files = read_files(named) or {MODEL: filesystem.read_bytes(named)}  # reading raises for a missing file
    tokenizer = from_files(files, infilling=False, name=f"--tokenizer={named}")
    if has_own and not _same_texts(mine := from_files(own, infilling=False), tokenizer):
        raise UserError(f"--tokenizer={named} has other pieces than the {mine.file_name} of {path}: leave it out")
    return {name: content for name, content in own.items() if name in companions.NAMES} | files


def _same_texts(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether the ids of two tokenizers stand for the same texts; of different kinds, as far as both have them."""
    if one.file_name == other.file_name:
        return one.token_bytes() == other.token_bytes()
    count = min(one.pieces, other.pieces)
    return one.token_bytes()[:count] == other.token_bytes()[:count]


def model_name(path: Path) -> str:
    """The name of the model at a path (GenerationModel.name)."""
    path = path if filesystem.is_remote(path) else Path(os.path.abspath(path))  # without ..
    folder = path.parent.parent if path.parent.name == "checkpoints" else path
    if (folder / "checkpoints").is_dir():
        return f"{folder.parent.name}-{folder.name}"
    return path.stem if path.is_file() else path.name
