"""Detects the format of a checkpoint, and opens it."""

import math
from pathlib import Path
from typing import NamedTuple

from codellama_jax.conversion import canonical, hf, llama2c, meta, native
from codellama_jax.conversion.canonical import Model, Source, Tensor
from codellama_jax.errors import UserError


class OpenedCheckpoint(NamedTuple):
    """A checkpoint that is open for reading.

    Attributes:
        source: reads its tensors.
        format: "Hugging Face", "Meta", "llama2.c" or "codellama_jax".
        tokenizer: its SentencePiece model file; None if there is none.
        trained: whether training wrote it, in float32.
    """

    source: Source
    format: str
    tokenizer: Path | None
    trained: bool = False


def open_checkpoint(path: Path) -> OpenedCheckpoint:
    """Opens the checkpoint at a path, in any format.

    Raises:
        UserError: there is no checkpoint of a known format, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    model_file = path / "tokenizer.model"
    tokenizer = model_file if model_file.is_file() else None
    if folder := native.find(path):
        source = native.Checkpoint(folder)
        return OpenedCheckpoint(source, "codellama_jax", source.tokenizer, source.trained)
    if (path / "config.json").is_file():
        return OpenedCheckpoint(hf.HuggingFace(path), "Hugging Face", tokenizer)
    if (path / meta.PARAMS).is_file() or any(path.glob("consolidated.*.pth")):
        return OpenedCheckpoint(meta.Meta(path), "Meta", tokenizer)
    if file := llama2c.find(path):
        return OpenedCheckpoint(llama2c.Llama2c(file), "llama2.c", None)
    raise UserError(
        f"{path} is not a checkpoint of a known format: a folder with config.json and *.safetensors (Hugging Face),"
        " params.json and consolidated.*.pth (Meta), params/ and metadata/ (this project), or a .bin file of llama2.c"
    )


def nbytes(model: Model) -> int:
    """The size of all tensors in their original dtypes, in bytes."""
    stored = (tensor for tensor in canonical.tensors(model.llama) if not (model.tied and tensor.name == "head"))
    return sum(size(model, tensor) for tensor in stored)


def size(model: Model, tensor: Tensor) -> int:
    """The size of one tensor in its original dtype, in bytes."""
    return math.prod(canonical.shape(model.llama, tensor.name)) * canonical.dtype_of(model, tensor).itemsize
