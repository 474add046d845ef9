"""Detects the format of a checkpoint, and opens it."""

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from codellama_jax.conversion import adapters, canonical, hf, llama2c, meta, native, verify
from codellama_jax.conversion.canonical import Model, Source, Tensor
from codellama_jax.conversion.hf_config import read_llama, special_ids
from codellama_jax.conversion.json_values import read_object
from codellama_jax.conversion.native import Training
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem, gcs
from codellama_jax.training import assets
from codellama_jax.training.assets import Assets
from codellama_jax.training.lineage import Lineage

_log = logging.getLogger(__name__)
OURS = "codellama_jax"
_CONSOLIDATED = re.compile(r"consolidated\.\d+\.pth")


class OpenedCheckpoint(NamedTuple):
    """A checkpoint that is open for reading.

    Attributes:
        source: reads its tensors.
        format: "Hugging Face", "Meta", "llama2.c" or OURS.
        files: the files of its tokenizer and its like, which conversions carry.
        lineage: what it records for an export.
        trained: whether training wrote it, in float32.
        name_of: the name of a tensor in this format.
        training: what the parameters of a checkpoint that training wrote went through.
        export_dtype: dtype of an export, unless another one is named; None: the dtype of each tensor.
    """

    source: Source
    format: str
    files: Assets
    lineage: Lineage
    trained: bool = False
    name_of: Callable[[Tensor], str] = str
    training: Training | None = None
    export_dtype: str | None = None


def open_checkpoint(path: Path) -> OpenedCheckpoint:
    """Opens the checkpoint at a path, in any format.

    Raises:
        UserError: there is no checkpoint of a known format, or it is damaged.
    """
    if filesystem.is_remote(path):
        gcs.check_bucket(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; download the checkpoint, and pass its folder")
    if folder := native.find(path):
        return _ours(folder)
    present = filesystem.list_folder(path)
    _check_adapter(path, present)
    is_hf, is_meta = hf.CONFIG in present, meta.PARAMS in present or any(map(_CONSOLIDATED.fullmatch, present))
    if is_hf and is_meta and meta.PARAMS in present:
        return _one_of_two(path, present)
    if is_hf:
        return _hugging_face(path)
    if is_meta:
        return _meta(path, meta.Meta(path))
    if file := llama2c.find(path):
        return _foreign(llama2c.Llama2c(file), "llama2.c", {})
    if any(hf.is_weights(name) for name in present):
        raise UserError(f"{path} has tensors, but no {hf.CONFIG}: it is incomplete; fetch or export it again")
    near = [path.parent] if path.name == "checkpoints" else [path / name for name in present]
    if not filesystem.is_remote(path) and (stages := [str(folder) for folder in near if native.find(folder)]):
        raise UserError(f"{path} is not a checkpoint; there are checkpoints in {', '.join(stages[:5])}")
    if "config.gin" in present or "checkpoints" in present:
        raise UserError(f"{path} is the folder of a stage that has not saved a checkpoint yet: train it first")
    raise UserError(
        f"{path} is not a checkpoint of a known format: a stage's folder runs/NAME/STAGE, a folder with config.json and"
        " *.safetensors (Hugging Face), params.json and consolidated.*.pth (Meta), params/ and metadata/ (this project)"
        ", or a .bin file of llama2.c"
    )


def _ours(folder: Path) -> OpenedCheckpoint:
    """A checkpoint of this project; one of adapters with its model."""
    source: native.Checkpoint | adapters.AdaptedCheckpoint
    dtype: str | None
    if "adapter" in native.describe(folder).metadata:
        source = adapters.AdaptedCheckpoint(folder, open_base)
        of_base = source.base.model
        dtype = "bfloat16" if source.trained else of_base.dtypes[str(Tensor("wq", 0))]
    else:
        source = native.Checkpoint(folder)
        dtype = "bfloat16" if source.trained else None
    return OpenedCheckpoint(
        source, OURS, source.files, source.lineage, source.trained, training=source.training, export_dtype=dtype
    )


def folder(path: Path) -> Path:
    """The folder that a path stands for: the newest checkpoint of a stage; that of another format as it is."""
    return native.find(path) or path


def open_base(path: Path) -> adapters.Base:
    """Opens the model of adapters. Raises as `open_checkpoint`."""
    opened = open_checkpoint(path)
    return adapters.Base(opened.source, opened.files, opened.lineage)


def _hugging_face(path: Path) -> OpenedCheckpoint:
    return _foreign(hf.HuggingFace(path), "Hugging Face", _carried(path), hf.name_of)


def _meta(path: Path, source: Source) -> OpenedCheckpoint:
    files = {name: content for name, content in _carried(path).items() if name == assets.MODEL}
    return _foreign(source, "Meta", files, meta.name_of)


def _carried(path: Path) -> Assets:
    """The files of the tokenizer and its like, checked so that damage is not found when they are exported."""
    files = assets.find(path)
    for name in files:
        content = read_object(path / name) if name.endswith(".json") else {}
        if name == assets.GENERATION:
            special_ids(path / name, content)
    return files


def not_carried(path: Path, files: Assets) -> list[str]:
    """The files of a folder in another format that an import neither reads nor carries, such as a licence."""
    if not filesystem.is_folder(path):
        return []
    read = (hf.CONFIG, hf.INDEX, meta.PARAMS)
    names = [name for name in filesystem.list_folder(path) if not name.startswith(".") and (path / name).is_file()]
    weights = (".safetensors", ".bin", ".bin.index.json", ".pth", ".gguf", ".pt")  # unread ones have a warning
    return [name for name in names if name not in (*read, *files) and not name.endswith(weights)]


def _foreign(source: Source, format: str, files: Assets, name_of: Callable[[Tensor], str] = str) -> OpenedCheckpoint:
    """A checkpoint in the format of another program."""
    metadata = {"sequence_length": source.model.sequence_length, "imported": {"notes": source.model.notes}}
    return OpenedCheckpoint(source, format, files, Lineage.of(metadata), name_of=name_of)


def _check_adapter(path: Path, present: list[str]) -> None:
    """Warns of an adapter (LoRA) beside a model; refuses one without a model."""
    found = [name for name in present if name.startswith(("adapter_model.", "adapter_config."))]
    if not found:
        return
    remedy = "merge it into its base model first (peft: model.merge_and_unload().save_pretrained(DIR))"
    if not any(hf.is_weights(name) or _CONSOLIDATED.fullmatch(name) for name in present):
        raise UserError(
            f"{path / found[-1]} is an adapter, not a model: import it with its model (python -m codellama_jax.convert"
            f" import --from={path} --base=MODEL --to=DIR), or {remedy}, and use that folder"
        )
    _log.warning(
        "warning: %s: %s belongs to an adapter, which is not part of the result: to include it, %s",
        path,
        " and ".join(found),
        remedy,
    )


def _one_of_two(path: Path, present: list[str]) -> OpenedCheckpoint:
    """Opens a folder that has config.json and params.json, which must describe the same model."""
    has_hf = any(hf.is_weights(name) for name in present)
    has_meta = any(map(_CONSOLIDATED.fullmatch, present))
    theirs, _ = read_llama(path / hf.CONFIG, read_object(path / hf.CONFIG))
    different = [
        f"{field}: {getattr(theirs, field)} and {value}"
        for field, value in meta.stated(path / meta.PARAMS).items()
        if getattr(theirs, field) != value
    ]
    source: Source | None = meta.Meta(path) if has_meta and not different else None
    if source is not None:
        different = verify.different_settings(theirs, source.model.llama)
    if different:
        raise UserError(
            f"{path} has {hf.CONFIG} and {meta.PARAMS}, which describe different models ({different[0]}): move one"
            " of them to a folder of its own"
        )
    if source is not None and not has_hf:
        return _meta(path, source)
    if source is not None:
        source.close()
    return _hugging_face(path)


def nbytes(model: Model) -> int:
    """The size of all tensors in their original dtypes, in bytes."""
    return sum(size(model, tensor) for tensor in canonical.tensors(model.llama))


def size(model: Model, tensor: Tensor) -> int:
    """The size of one tensor in its original dtype, in bytes."""
    return math.prod(canonical.shape(model.llama, tensor.name)) * canonical.dtype_of(model, tensor).itemsize
