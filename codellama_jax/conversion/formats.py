"""Detects the format of a checkpoint, and opens it."""

import math
from pathlib import Path
from typing import NamedTuple

from codellama_jax.conversion import canonical, hf, llama2c, meta, native
from codellama_jax.conversion.canonical import Model, Source, Tensor
from codellama_jax.errors import UserError
from codellama_jax.training import assets
from codellama_jax.training.assets import Assets
from codellama_jax.training.lineage import Lineage


class OpenedCheckpoint(NamedTuple):
    """A checkpoint that is open for reading.

    Attributes:
        source: reads its tensors.
        format: "Hugging Face", "Meta", "llama2.c" or "codellama_jax".
        files: the files of its tokenizer and its like, which conversions carry.
        lineage: what it records for an export.
        trained: whether training wrote it, in float32.
    """

    source: Source
    format: str
    files: Assets
    lineage: Lineage
    trained: bool = False


def open_checkpoint(path: Path) -> OpenedCheckpoint:
    """Opens the checkpoint at a path, in any format.

    Raises:
        UserError: there is no checkpoint of a known format, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    if folder := native.find(path):
        source = native.Checkpoint(folder)
        return OpenedCheckpoint(source, "codellama_jax", source.files, source.lineage, source.trained)
    if (path / "config.json").is_file():
        return _foreign(hf.HuggingFace(path), "Hugging Face", assets.find(path))
    if (path / meta.PARAMS).is_file() or any(path.glob("consolidated.*.pth")):
        files = {name: content for name, content in assets.find(path).items() if name == assets.MODEL}
        return _foreign(meta.Meta(path), "Meta", files)
    if file := llama2c.find(path):
        return _foreign(llama2c.Llama2c(file), "llama2.c", {})
    raise UserError(
        f"{path} is not a checkpoint of a known format: a folder with config.json and *.safetensors (Hugging Face),"
        " params.json and consolidated.*.pth (Meta), params/ and metadata/ (this project), or a .bin file of llama2.c"
    )


def _foreign(source: Source, format: str, files: Assets) -> OpenedCheckpoint:
    """A checkpoint in the format of another program."""
    metadata = {"sequence_length": source.model.sequence_length, "imported": {"notes": source.model.notes}}
    return OpenedCheckpoint(source, format, files, Lineage.of(metadata))


def nbytes(model: Model) -> int:
    """The size of all tensors in their original dtypes, in bytes."""
    stored = (tensor for tensor in canonical.tensors(model.llama) if not (model.tied and tensor.name == "head"))
    return sum(size(model, tensor) for tensor in stored)


def size(model: Model, tensor: Tensor) -> int:
    """The size of one tensor in its original dtype, in bytes."""
    return math.prod(canonical.shape(model.llama, tensor.name)) * canonical.dtype_of(model, tensor).itemsize
