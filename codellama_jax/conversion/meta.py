"""Meta's checkpoints: params.json and consolidated.NN.pth, one file for each model-parallel part.

wq, wk, wv, w1, w3 and the head are split along their rows, wo, w2 and the embedding along their columns; norms are
complete in every part. Rotary channels are adjacent pairs. An embedding split along its rows, as in Llama 3, can be
read too.
"""

import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from codellama_jax.config.model import Llama
from codellama_jax.conversion import canonical, torch_file
from codellama_jax.conversion.canonical import Model, Source, Tensor
from codellama_jax.conversion.json_values import number, read_object, whole_number
from codellama_jax.conversion.output import OutputFolder
from codellama_jax.conversion.tensor_file import InputFile, StoredTensor
from codellama_jax.errors import UserError

_log = logging.getLogger(__name__)

PARAMS = "params.json"

_GLOBAL = {"embedding": "tok_embeddings.weight", "norm": "norm.weight", "head": "output.weight"}
_BLOCK = {name: f"attention.{name}" for name in ("wq", "wk", "wv", "wo")}
_BLOCK |= {name: f"feed_forward.{name}" for name in ("w1", "w2", "w3")}
_BLOCK |= {"attention_norm": "attention_norm", "ffn_norm": "ffn_norm"}
_AXES = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "head": 0, "wo": 1, "w2": 1, "embedding": 1}
_IGNORED = "rope.freqs"
# Keys of models that resemble a Llama but compute something else: Llama 3.1's rotary scaling, quantised or other models
_OTHER_MODELS = ("use_scaled_rope", "rope_scaling_factor", "quantization_args", "lora_args", "moe", "sliding_window")
_READ = {"dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "norm_eps", "rope_theta", "multiple_of"}
_READ |= {"ffn_dim_multiplier", *_OTHER_MODELS}
_COMPARED_ROWS = 128
# the number of parts of Meta's checkpoints by (dim, layers): 7B, 13B, 34B, 70B
_PARTS = {(4096, 32): 1, (5120, 40): 2, (8192, 48): 4, (8192, 80): 8}
_LENGTHS = {1e4: 4096, 1e6: 16384}  # positions by rope_theta (Llama 2, Code Llama): params.json does not have them


def name_of(tensor: Tensor) -> str:
    """Meta's name of a tensor."""
    if tensor.layer is None:
        return _GLOBAL[tensor.name]
    return f"layers.{tensor.layer}.{_BLOCK[tensor.name]}.weight"


def stated(path: Path) -> dict[str, Any]:
    """The fields of Llama that a params.json states itself, without the .pth files."""
    params = read_object(path)
    names = {"dim": "dim", "n_layers": "layers", "n_heads": "heads", "n_kv_heads": "kv_heads"}
    names |= {"vocab_size": "vocab_size", "norm_eps": "norm_eps", "rope_theta": "rope_theta"}
    return {field: params[key] for key, field in names.items() if params.get(key) not in (None, -1)}


class Meta:
    """The Source of a folder in Meta's format."""

    def __init__(self, folder: Path):
        """Opens the files and checks all names and shapes.

        Raises:
            UserError: a file is missing, damaged or refused, or the model is not a Llama; the message names the
                file.
        """
        params = read_object(folder / PARAMS)
        if unread := sorted(params.keys() - _READ):
            _log.warning("warning: %s: not read: %s", folder / PARAMS, ", ".join(unread))
        paths = sorted(folder.glob("consolidated.*.pth"))
        numbers = [int(match[1]) for path in paths if (match := re.fullmatch(r"consolidated\.(\d+)\.pth", path.name))]
        if len(numbers) != len(set(numbers)):
            raise UserError(f"{folder} has two files for one part, {paths[0].name} and others: remove the wrong one")
        if not numbers or numbers != list(range(len(numbers))):
            _refuse_missing_part(folder, numbers, max(numbers, default=0) + 1)
        self._files = [InputFile(path) for path in paths]
        files = [torch_file.read(file) for file in self._files]
        if (parts := _number_of_parts(params, files[0])) is not None and parts > len(files):
            _refuse_missing_part(folder, numbers, parts)
        llama = _llama(folder / PARAMS, params, files)
        self._parts: dict[Tensor, tuple[int | None, list[StoredTensor]]] = {}
        tensors = {name_of(tensor): tensor for tensor in canonical.tensors(llama)}
        for file, stored in zip(self._files, files, strict=True):
            canonical.check_names(file.path, tensors.keys(), stored.keys() - {_IGNORED}, "part of a complete Llama")
        for name, tensor in tensors.items():
            self._parts[tensor] = self._matched(llama, tensor, [stored[name] for stored in files])
        self._check_parts_belong_together()
        dtypes = {str(tensor): parts[0].dtype.name for tensor, (_, parts) in self._parts.items()}
        notes = {"params": params, "parts": len(files), "embedding_axis": self._parts[Tensor("embedding")][0]}
        length = _LENGTHS.get(llama.rope_theta, _LENGTHS[1e4])
        self.model = Model(llama, length, dtypes, notes=notes)

    def _matched(self, llama: Any, tensor: Tensor, parts: list[StoredTensor]) -> tuple[int | None, list[StoredTensor]]:
        """The axis along which the tensor is split, and its parts; checks their shapes and dtypes."""
        shape = canonical.shape(llama, tensor.name)
        axes = [0, 1] if tensor.name == "embedding" and len(parts) > 1 else [_AXES.get(tensor.name)]
        for axis in axes:
            expected = tuple(size // len(parts) if i == axis else size for i, size in enumerate(shape))
            if all(part.shape == expected and part.dtype == parts[0].dtype for part in parts):
                return axis, parts
        name, wrong = name_of(tensor), next((part for part in parts if part.shape != expected), parts[-1])
        raise UserError(
            f"{wrong.file.path}: {name} is {list(wrong.shape)} {wrong.dtype}, but {PARAMS} and {len(parts)} parts"
            f" require {list(expected)} {parts[0].dtype}: they do not belong together"
        )

    def _check_parts_belong_together(self) -> None:
        """Compares the parts: each has its own rows of a matrix, and all have the same norms.

        Raises:
            UserError: two parts have the same rows, as after a wrong download.
        """
        head = self._parts[Tensor("wq", 0)][1]
        seen: dict[bytes, Path] = {}
        for part in head:
            rows = part.rows(0, min(part.shape[0], _COMPARED_ROWS)).tobytes()
            first = seen.setdefault(rows, part.file.path)
            if first != part.file.path and any(rows):  # zeros may be equal
                raise UserError(f"{first} and {part.file.path.name} have the same tensors: fetch both again")
        for tensor, (axis, parts) in self._parts.items():
            values = [part.rows(0, part.shape[0]).tobytes() for part in parts] if axis is None else []
            if other := next((part for part, value in zip(parts, values, strict=False) if value != values[0]), None):
                _log.warning(
                    "warning: %s: %s differs from that in %s, which is used: are they parts of one checkpoint?",
                    other.file.path,
                    name_of(tensor),
                    parts[0].file.path.name,
                )
                return

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """See Source.rows."""
        axis, parts = self._parts[tensor]
        if axis is None:
            return parts[0].rows(start, stop)
        if axis == 1:
            arrays = [part.rows(start, stop) for part in parts]
        else:
            size = parts[0].shape[0]
            ranges = [(max(start - n * size, 0), min(stop - n * size, size)) for n in range(len(parts))]
            arrays = [part.rows(*range_) for part, range_ in zip(parts, ranges, strict=True) if range_[0] < range_[1]]
        rows = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis)
        if tensor.name in canonical.ROTARY:
            return canonical.half_split(rows, self.model.llama.head_dim)
        return rows

    def close(self) -> None:
        """See Source.close."""
        for file in self._files:
            file.close()


def _refuse_missing_part(folder: Path, numbers: list[int], parts: int) -> NoReturn:
    missing = [f"consolidated.{part:02d}.pth" for part in range(parts) if part not in numbers]
    more = f", and so are {len(missing) - 1} more parts" if len(missing) > 1 else ""
    raise UserError(f"{folder / missing[0]} is missing{more}: fetch the complete checkpoint again")


def _number_of_parts(params: dict[str, Any], stored: dict[str, StoredTensor]) -> int | None:
    """The number of parts according to the rows of wq in one of them; None if they cannot be compared."""
    dim, query = params.get("dim"), stored.get(name_of(Tensor("wq", 0)))
    if not isinstance(dim, int) or query is None or len(query.shape) != 2 or not query.shape[0]:
        return None
    return dim // query.shape[0] if query.shape[1] == dim and dim % query.shape[0] == 0 else None


def _llama(path: Path, params: dict[str, Any], files: list[dict[str, StoredTensor]]) -> Any:
    for key in _OTHER_MODELS:
        if params.get(key):
            raise UserError(f"{path}: {key} is {params[key]!r}: only plain Llama models are supported")
    rows, widths = _rows(files, _GLOBAL["head"]), _rows(files, name_of(Tensor("w1", 0)))
    for key in ("dim", "n_layers", "n_heads"):
        if key not in params:
            raise UserError(f"{path} is damaged: '{key}' is missing; fetch it again")
    heads, kv_heads = whole_number(path, "n_heads", params["n_heads"]), params.get("n_kv_heads")
    vocab = params.get("vocab_size", -1)  # -1: the tokenizer's
    llama = canonical.checked_llama(
        path,
        dim=whole_number(path, "dim", params["dim"]),
        layers=whole_number(path, "n_layers", params["n_layers"]),
        heads=heads,
        kv_heads=heads if kv_heads is None else whole_number(path, "n_kv_heads", kv_heads),
        ffn_dim=widths,
        vocab_size=rows if vocab == -1 else whole_number(path, "vocab_size", vocab),
        norm_eps=number(path, "norm_eps", params.get("norm_eps", 1e-5)),
        rope_theta=number(path, "rope_theta", params.get("rope_theta", 1e4), above=1),
    )
    multiple, multiplier = whole_number(path, "multiple_of", params.get("multiple_of", 256)), None
    if params.get("ffn_dim_multiplier") is not None:
        multiplier = number(path, "ffn_dim_multiplier", params["ffn_dim_multiplier"])
    if _ffn_dim(llama.dim, multiple, multiplier) != llama.ffn_dim:
        raise UserError(f"{path} and the .pth files do not belong together: feed_forward.w1 has {widths} rows")
    if llama.kv_heads % len(files):
        raise UserError(f"{path}: {llama.kv_heads} key-value heads in {len(files)} parts: a head cannot be split")
    return llama


def _rows(files: list[dict[str, StoredTensor]], name: str) -> int:
    return sum(stored[name].shape[0] for stored in files if name in stored and stored[name].shape)


def _ffn_dim(dim: int, multiple: int, multiplier: float | None) -> int:
    """The feed-forward width, as Meta's code computes it."""
    hidden = int(2 * 4 * dim / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return -(-hidden // multiple) * multiple


def _ffn_settings(dim: int, ffn_dim: int) -> dict[str, Any]:
    """multiple_of, and ffn_dim_multiplier if needed, that result in this feed-forward width."""
    exact = math.gcd(ffn_dim, 4096)
    middle = (ffn_dim - exact / 2 if exact > 1 else ffn_dim + 0.5) / int(8 * dim / 3)
    candidates = [(256, None), (1024, None), (4096, 1.3), (exact, None), (exact, middle)]
    for multiple, multiplier in candidates:
        if _ffn_dim(dim, multiple, multiplier) == ffn_dim:
            settings: dict[str, Any] = {"multiple_of": multiple}
            return settings if multiplier is None else settings | {"ffn_dim_multiplier": multiplier}
    raise UserError(f"Meta's params.json cannot express a feed-forward width of {ffn_dim} at dim {dim}")


def write(source: Source, folder: Path, parts: int | None = None, output: OutputFolder | None = None) -> None:
    """Writes params.json and consolidated.NN.pth.

    Args:
        source: a checkpoint of any format.
        folder: an empty folder.
        parts: number of model-parallel parts; None: as imported, or Meta's number for the size, or 1.
        output: where to write the parts; None: `folder`.

    Raises:
        UserError: the format cannot express the model, or heads, widths or vocabulary are not divisible by the number
            of parts.
    """
    if source.model.llama.tied:
        source = canonical.Untied(source)
    model = source.model
    llama, notes = model.llama, model.notes
    _check_expressible(llama)
    parts = parts or notes.get("parts") or _PARTS.get((llama.dim, llama.layers), 1)
    embedding_axis = notes.get("embedding_axis", 1)
    for field in ("heads", "kv_heads", "ffn_dim", "vocab_size", "dim"):
        if getattr(llama, field) % parts:
            raise UserError(f"{field} {getattr(llama, field)} cannot be split into {parts} parts: use another --shards")
    axes = _AXES | {"embedding": embedding_axis}

    def layout(tensor: Tensor) -> tuple[str, str, tuple[int, ...]]:
        shape, axis = canonical.shape(llama, tensor.name), axes.get(tensor.name)
        part_shape = tuple(size // parts if i == axis else size for i, size in enumerate(shape))
        return name_of(tensor), model.dtypes[str(tensor)], part_shape

    entries = [layout(tensor) for tensor in canonical.tensors(llama)]
    output = output or OutputFolder(folder, folder)
    names = [f"consolidated.{part:02d}" for part in range(parts)]
    writers = [torch_file.Writer(output.open(f"{name}.pth"), name, entries) for name in names]
    try:
        for tensor in canonical.tensors(llama):
            itemsize = canonical.dtype_of(model, tensor).itemsize
            part_rows = canonical.shape(llama, tensor.name)[0] // parts
            for start, stop in canonical.blocks(llama, tensor.name, itemsize):
                rows = source.rows(tensor, start, stop)
                if tensor.name in canonical.ROTARY:
                    rows = canonical.adjacent_pairs(rows, llama.head_dim)
                _write_rows(rows, axes.get(tensor.name), start, part_rows, [writer.write for writer in writers])
        for writer in writers:
            writer.close()
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    (folder / PARAMS).write_text(json.dumps(_params_json(model), indent=2) + "\n")


def _check_expressible(llama: Llama) -> None:
    """Raises UserError if params.json has no key for a part of the model."""
    for missing, what in (
        (llama.rope_scale != 1, "position interpolation (Llama.rope_scale)"),
        (llama.rope_type != "default", f"rotary scaling of type {llama.rope_type!r} (Llama.rope_type)"),
        (llama.qkv_bias, "biases (Llama.qkv_bias)"),
        (llama.head_dim * llama.heads != llama.dim, "heads of another width than dim / n_heads (Llama.head_width)"),
    ):
        if missing:
            raise UserError(f"Meta's format has no {what}: use --format=hf")


def _write_rows(
    rows: np.ndarray, axis: int | None, start: int, part_rows: int, writes: list[Callable[[np.ndarray], None]]
) -> None:
    """Writes to each part its share of some rows of a tensor; `start` is the number of the first row."""
    if axis == 0:
        for part, write in enumerate(writes):
            begin, end = max(part * part_rows - start, 0), min((part + 1) * part_rows - start, len(rows))
            if begin < end:
                write(rows[begin:end])
        return
    arrays = [rows] * len(writes) if axis is None else np.split(rows, len(writes), axis)
    for write, array in zip(writes, arrays, strict=True):
        write(array)


def _params_json(model: Model) -> dict[str, Any]:
    llama = model.llama
    params: dict[str, Any] = {
        "dim": llama.dim,
        "n_layers": llama.layers,
        "n_heads": llama.heads,
        "n_kv_heads": llama.kv_heads,
    }
    params |= {"norm_eps": llama.norm_eps, "vocab_size": llama.vocab_size}
    params |= _ffn_settings(llama.dim, llama.ffn_dim)
    if llama.rope_theta != 1e4:  # Llama 2's own code rejects the key
        params["rope_theta"] = llama.rope_theta
    # Values of an imported params.json are kept, except the vocabulary size, which may be -1 or have been increased.
    imported = model.notes.get("params", {})
    return params | {key: value for key, value in imported.items() if key != "vocab_size"}
