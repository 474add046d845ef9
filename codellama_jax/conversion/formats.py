"""Which format lies at a path."""

import math
from pathlib import Path
from typing import NamedTuple

from codellama_jax.conversion import canonical, checkpoint, hf, llama2c, meta
from codellama_jax.conversion.canonical import Model, Source, Tensor
from codellama_jax.errors import UserError


class Opened(NamedTuple):
    """A checkpoint that was found and opened.

    Attributes:
        source: it.
        format: "Hugging Face", "Meta", "llama2.c" or "codellama_jax".
        tokenizer: the tokenizer's model file beside it, if there is one.
        trained: whether training wrote it, in float32.
    """

    source: Source
    format: str
    tokenizer: Path | None
    trained: bool = False


def open_checkpoint(path: Path) -> Opened:
    """Opens what lies at a path.

    Raises:
        UserError: nothing that is known, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such folder")
    beside = path / "tokenizer.model"
    tokenizer = beside if beside.is_file() else None
    if found := checkpoint.find(path):
        ours = checkpoint.Checkpoint(found)
        return Opened(ours, "codellama_jax", ours.tokenizer, ours.trained)
    if (path / "config.json").is_file():
        return Opened(hf.HuggingFace(path), "Hugging Face", tokenizer)
    if (path / meta.PARAMS).is_file() or any(path.glob("consolidated.*.pth")):
        return Opened(meta.Meta(path), "Meta", tokenizer)
    if file := llama2c.find(path):
        return Opened(llama2c.Llama2c(file), "llama2.c", None)
    raise UserError(
        f"{path} is no checkpoint that is known: a folder with config.json and *.safetensors (Hugging Face),"
        " params.json and consolidated.*.pth (Meta), params/ and metadata/ (ours), or a .bin of llama2.c"
    )


def nbytes(model: Model) -> int:
    """Bytes of all tensors in their own dtypes."""
    kept = (tensor for tensor in canonical.tensors(model.llama) if not (model.tied and tensor.name == "head"))
    return sum(size(model, tensor) for tensor in kept)


def size(model: Model, tensor: Tensor) -> int:
    """Bytes of one."""
    return math.prod(canonical.shape(model.llama, tensor.name)) * canonical.dtype_of(model, tensor).itemsize
