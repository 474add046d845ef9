"""The canonical form that all formats are converted through: this project's tensor names, one [out, in] per layer.

Other formats store a matrix as [out, in], one per layer. The native arrays of this project are [layers, in, out], with
separate head dimensions. A Source reads any format as rows of [out, in] with half-split rotary channels. A conversion
is therefore a Source and a writer, and only one block of rows is in memory at a time.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from codellama_jax.config.model import BIASES, Llama
from codellama_jax.errors import UserError

BLOCK_BYTES = 16 << 20  # size of a block of rows, unless a single row is larger
WIDTH_CHUNKS = 16  # number of chunks along the model width, which training shards: a device restores few chunks

_MAX_LAYERS = 10_000  # more are a damaged file, whose list of tensors would not fit in memory

IN_LAYERS = ("attention_norm", "wq", "wk", "wv", *BIASES, "wo", "ffn_norm", "w1", "w3", "w2")
NORMS = ("attention_norm", "ffn_norm", "norm")
ROTARY = ("wq", "wk")
_OF_HEADS = ("wq", "wk", "wv", *BIASES)  # whose rows are the channels of heads
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "bfloat16", "float16")}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The name of one tensor.

    Attributes:
        name: "embedding", "norm", "head", or one of IN_LAYERS.
        layer: the layer, for IN_LAYERS; None for the others.
    """

    name: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.name if self.layer is None else f"blocks.{self.name}.{self.layer}"

    @property
    def parameter(self) -> str:
        """The name of the native array that holds this tensor, for all layers."""
        return self.name if self.layer is None else f"blocks.{self.name}"


@dataclasses.dataclass(frozen=True)
class Model:
    """The description of a checkpoint.

    Attributes:
        llama: shape and rotary base.
        sequence_length: the maximum number of positions.
        dtypes: the dtype of each tensor in its original format, such as "float32", by str(tensor).
        notes: what else the export to the original format needs, as JSON values: Meta's parts, ids of special tokens,
            the model_type of Hugging Face.
    """

    llama: Llama
    sequence_length: int
    dtypes: Mapping[str, str]
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Source(Protocol):
    """A checkpoint of any format, open for reading.

    Attributes:
        model: its description.
    """

    model: Model

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """Rows start to stop of a tensor [out, in] (a norm: [dim], a bias: [out]), in its dtype, with half-split rotary
        channels.

        Rows of wq, wk, wv and their biases are requested for complete heads only.

        Raises:
            UserError: a file is damaged; the message names it.
        """
        ...

    def close(self) -> None:
        """Closes the files."""
        ...


class Untied:
    """A Source of a tied model as one with a head of its own, for formats that always have one.

    Attributes:
        model: the description, with the head.
    """

    def __init__(self, source: Source):
        model, self._source = source.model, source
        dtypes = {**model.dtypes, "head": model.dtypes["embedding"]}
        self.model = dataclasses.replace(model, llama=dataclasses.replace(model.llama, tied=False), dtypes=dtypes)

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """See Source.rows."""
        return self._source.rows(Tensor("embedding") if tensor.name == "head" else tensor, start, stop)

    def close(self) -> None:
        """See Source.close."""
        self._source.close()


def tensors(llama: Llama) -> Iterator[Tensor]:
    """All tensors of a model, in the order of the native arrays: all layers of one name, then the next name.

    A tied model has no head.
    """
    yield Tensor("embedding")
    for name in IN_LAYERS:
        if name in BIASES and not llama.qkv_bias:
            continue
        for layer in range(llama.layers):
            yield Tensor(name, layer)
    yield Tensor("norm")
    if not llama.tied:
        yield Tensor("head")


def check_names(path: Path, expected: Set[str], actual: Set[str], content: str) -> None:
    """Checks that a file or folder of another format has exactly the expected tensors.

    Args:
        path: path of the file or folder.
        expected, actual: names of tensors in that format.
        content: what the path should contain, for the message.

    Raises:
        UserError: tensors are missing or unknown; the message names up to three.
    """
    for names, problem in ((expected - actual, "has no"), (actual - expected, "has an unknown tensor,")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"{path} {problem} {', '.join(sorted(names)[:3])}{more}: it is not a {content}")


def shape(llama: Llama, name: str) -> tuple[int, ...]:
    """The canonical shape: [out, in] of a matrix, [out] of a bias, [dim] of a norm."""
    if name in ("embedding", "head"):
        return (llama.vocab_size, llama.dim)
    matrices = llama.matrices
    if name in BIASES:
        return matrices[f"w{name[1:]}"][1:]
    return matrices[name][::-1] if name in matrices else (llama.dim,)


def native_shape(llama: Llama, name: str) -> tuple[int, ...]:
    """The shape of one layer in the native arrays."""
    out, *within = shape(llama, name)
    if name in _OF_HEADS:
        return (*within, out // llama.head_dim, llama.head_dim)
    if name == "wo":
        return (llama.heads, llama.head_dim, llama.dim)
    return (out, *within) if name == "embedding" or not within else (*within, out)


def native_slices(llama: Llama, name: str, start: int, stop: int) -> tuple[slice, ...]:
    """The slices of one layer in the native array that hold rows start to stop of [out, in]."""
    everything = slice(None)
    if name in _OF_HEADS:
        heads = (slice(start // llama.head_dim, stop // llama.head_dim), everything)
        return heads if name in BIASES else (everything, *heads)
    rows = slice(start, stop)
    if name == "wo":
        return (everything, everything, rows)
    if name in NORMS:
        return (rows,)
    return (rows, everything) if name == "embedding" else (everything, rows)


def width_axis(name: str) -> int:
    """The axis of one layer in the native array that is the model width."""
    return {"embedding": 1, "wo": 2, "w2": 1}.get(name, 0)


def to_native(llama: Llama, name: str, rows: np.ndarray) -> np.ndarray:
    """Converts rows [out, in] to the native layout."""
    if name == "embedding" or name in NORMS:
        return rows
    if name in BIASES:
        return rows.reshape(-1, llama.head_dim)
    within = {"wq": (-1, llama.head_dim), "wk": (-1, llama.head_dim), "wv": (-1, llama.head_dim)}
    if name == "wo":
        return _transposed(rows).reshape(llama.heads, llama.head_dim, -1)
    return _transposed(rows).reshape(rows.shape[1], *within.get(name, (-1,)))


def from_native(llama: Llama, name: str, block: np.ndarray) -> np.ndarray:
    """The inverse of `to_native`."""
    if name == "embedding" or name in NORMS:
        return block
    if name in BIASES:
        return block.reshape(-1)
    inner = llama.heads * llama.head_dim if name == "wo" else block.shape[0]
    return _transposed(block.reshape(inner, -1))


def _transposed(matrix: np.ndarray) -> np.ndarray:
    """The transpose, copied sixteen rows at a time: copying it at once misses the cache and is 7 times slower."""
    copy = np.empty(matrix.shape[::-1], matrix.dtype)
    for row in range(0, len(matrix), 16):
        copy[:, row : row + 16] = matrix[row : row + 16].T
    return copy


def blocks(llama: Llama, name: str, itemsize: int) -> list[tuple[int, int]]:
    """Divides the rows into blocks of about BLOCK_BYTES: (start, stop).

    A block has complete heads of wq, wk, wv and their biases, and complete chunks of the model width of wo and w2.
    """
    out, *within = shape(llama, name)
    unit = llama.head_dim if name in _OF_HEADS else 1
    if name in ("wo", "w2"):
        unit = llama.dim // math.gcd(llama.dim, WIDTH_CHUNKS)
    units = max(1, BLOCK_BYTES // (unit * math.prod(within) * itemsize))
    # equal sizes, except the last: a small remainder would occupy a complete chunk on disk
    number = -(-out // (units * unit))
    step = -(-out // (number * unit)) * unit
    return [(start, min(start + step, out)) for start in range(0, out, step)]


def half_split(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Reorders the channels of complete heads: from rotary pairs (2i, 2i + 1), as Meta stores them, to (i, i + K/2)."""
    return np.ascontiguousarray(_heads(rows, head_dim // 2, 2))


def adjacent_pairs(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """The inverse of `half_split`."""
    return np.ascontiguousarray(_heads(rows, 2, head_dim // 2))


def _heads(rows: np.ndarray, first: int, second: int) -> np.ndarray:
    return rows.reshape(-1, first, second, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def dtype_of(model: Model, tensor: Tensor) -> np.dtype:
    """The dtype of a tensor in its original format."""
    return DTYPES[model.dtypes[str(tensor)]]


def stored_dtype(model: Model, parameter: str) -> np.dtype:
    """The dtype of a native array: one that represents the values of all layers exactly."""
    names = {model.dtypes[str(tensor)] for tensor in tensors(model.llama) if tensor.parameter == parameter}
    return DTYPES[names.pop() if len(names) == 1 else "float32"]


def checked_llama(path: Path, **fields: Any) -> Llama:
    """Creates the configuration of a Llama from values in a file.

    Raises:
        UserError: the values are not those of a Llama.
    """
    try:
        if min(fields[name] for name in ("dim", "layers", "heads", "kv_heads", "ffn_dim", "vocab_size")) < 1:
            raise ValueError("sizes must be positive")
        if fields["layers"] > _MAX_LAYERS:
            raise ValueError(f"it has {fields['layers']} layers")
        return Llama(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe a Llama: {error}") from None
