"""The form in which every format meets every other: our names, a layer by itself, rows of [out, in].

Foreign files hold a matrix as [out, in], one a layer; our arrays are [layers, in, out] with heads apart. A Source reads
any format as rows [out, in] with half-split rotary channels, so a conversion is a Source and a writer, and a block of
rows is all that is ever in memory.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from codellama_jax.config.model import Llama
from codellama_jax.errors import UserError

BLOCK_BYTES = 16 << 20  # of a block of rows, where rows are not larger than that
CUTS = 16  # along the model width, which training cuts over devices: what a device restores is few whole chunks

IN_LAYERS = ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w3", "w2")
NORMS = ("attention_norm", "ffn_norm", "norm")
ROTARY = ("wq", "wk")
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "bfloat16", "float16")}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor by our name.

    Attributes:
        name: "embedding", "norm", "head", or one of IN_LAYERS.
        layer: of IN_LAYERS; None for the others.
    """

    name: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.name if self.layer is None else f"blocks.{self.name}.{self.layer}"

    @property
    def parameter(self) -> str:
        """The name of the array that holds it with us, all layers of it."""
        return self.name if self.layer is None else f"blocks.{self.name}"


@dataclasses.dataclass(frozen=True)
class Model:
    """What a checkpoint says of itself.

    Attributes:
        llama: shape and rotary base.
        sequence_length: the most positions it is meant for.
        dtypes: what each tensor is, or was, stored as in its own format, by str(tensor); "float32" and the like.
        tied: whether the head is the embedding, and stored once.
        notes: what else a format wants back, as JSON values: parts of Meta's, ids of special tokens.
    """

    llama: Llama
    sequence_length: int
    dtypes: Mapping[str, str]
    tied: bool = False
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Source(Protocol):
    """A checkpoint of any format, open for reading.

    Attributes:
        model: what it says of itself.
    """

    model: Model

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """Rows start to stop of a tensor [out, in] (of a norm: [dim]), in its dtype, rotary channels half-split.

        Of wq, wk and wv only whole heads are asked for.

        Raises:
            UserError: names the file that is damaged.
        """
        ...

    def close(self) -> None:
        """Closes the files."""
        ...


def tensors(llama: Llama) -> Iterator[Tensor]:
    """Every tensor of a model, layers of one kind after each other, as our arrays hold them."""
    yield Tensor("embedding")
    for name in IN_LAYERS:
        for layer in range(llama.layers):
            yield Tensor(name, layer)
    yield Tensor("norm")
    yield Tensor("head")


def check_names(where: Path, wanted: Set[str], found: Set[str], whole: str) -> None:
    """Returns if a foreign file or folder has the tensors that it should, by its own names, and no others.

    Raises:
        UserError: it has not: it is no `whole`; names three at most.
    """
    for names, what in ((wanted - found, "has no"), (found - wanted, "has an unknown tensor,")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise UserError(f"{where} {what} {', '.join(sorted(names)[:3])}{more}: it is no {whole}")


def shape(llama: Llama, name: str) -> tuple[int, ...]:
    """[out, in] of a matrix, [dim] of a norm."""
    queries, keys = llama.heads * llama.head_dim, llama.kv_heads * llama.head_dim
    return {
        "embedding": (llama.vocab_size, llama.dim),
        "head": (llama.vocab_size, llama.dim),
        "wq": (queries, llama.dim),
        "wk": (keys, llama.dim),
        "wv": (keys, llama.dim),
        "wo": (llama.dim, queries),
        "w1": (llama.ffn_dim, llama.dim),
        "w3": (llama.ffn_dim, llama.dim),
        "w2": (llama.dim, llama.ffn_dim),
    }.get(name, (llama.dim,))


def our_shape(llama: Llama, name: str) -> tuple[int, ...]:
    """Shape of one layer in our arrays."""
    out, *within = shape(llama, name)
    if name in ("wq", "wk", "wv"):
        return (llama.dim, out // llama.head_dim, llama.head_dim)
    if name == "wo":
        return (llama.heads, llama.head_dim, llama.dim)
    return (out, *within) if name == "embedding" or not within else (*within, out)


def our_rows(llama: Llama, name: str, start: int, stop: int) -> tuple[slice, ...]:
    """Where rows start to stop of [out, in] lie within one layer of ours."""
    everything = slice(None)
    if name in ("wq", "wk", "wv"):
        return (everything, slice(start // llama.head_dim, stop // llama.head_dim), everything)
    rows = slice(start, stop)
    if name == "wo":
        return (everything, everything, rows)
    if name in NORMS:
        return (rows,)
    return (rows, everything) if name == "embedding" else (everything, rows)


def width_axis(name: str) -> int:
    """Which axis of one layer of ours is the model width."""
    return {"embedding": 1, "wo": 2, "w2": 1}.get(name, 0)


def to_ours(llama: Llama, name: str, rows: np.ndarray) -> np.ndarray:
    """Rows [out, in] as our arrays have them."""
    if name == "embedding" or name in NORMS:
        return rows
    within = {"wq": (-1, llama.head_dim), "wk": (-1, llama.head_dim), "wv": (-1, llama.head_dim)}
    if name == "wo":
        return _transposed(rows).reshape(llama.heads, llama.head_dim, -1)
    return _transposed(rows).reshape(rows.shape[1], *within.get(name, (-1,)))


def from_ours(llama: Llama, name: str, block: np.ndarray) -> np.ndarray:
    """The way back."""
    if name == "embedding" or name in NORMS:
        return block
    inner = llama.heads * llama.head_dim if name == "wo" else block.shape[0]
    return _transposed(block.reshape(inner, -1))


def _transposed(matrix: np.ndarray) -> np.ndarray:
    """The transpose, copied sixteen rows at a time: the whole at once keeps missing the cache (7 times slower)."""
    copy = np.empty(matrix.shape[::-1], matrix.dtype)
    for row in range(0, len(matrix), 16):
        copy[:, row : row + 16] = matrix[row : row + 16].T
    return copy


def blocks(llama: Llama, name: str, itemsize: int) -> list[tuple[int, int]]:
    """Rows in blocks of about BLOCK_BYTES: (start, stop), whole heads of wq, wk and wv, whole cuts of the width."""
    out, *within = shape(llama, name)
    unit = llama.head_dim if name in ("wq", "wk", "wv") else 1
    if name in ("wo", "w2"):
        unit = llama.dim // math.gcd(llama.dim, CUTS)
    units = max(1, BLOCK_BYTES // (unit * math.prod(within) * itemsize))
    # of equal size, but for the last: a small rest would be a whole chunk on disk
    number = -(-out // (units * unit))
    step = -(-out // (number * unit)) * unit
    return [(start, min(start + step, out)) for start in range(0, out, step)]


def half_split(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of whole heads whose channels 2i and 2i + 1 rotate together (Meta) -> i and i + K/2 (Hugging Face, ours)."""
    return np.ascontiguousarray(_heads(rows, head_dim // 2, 2))


def adjacent_pairs(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """The way back."""
    return np.ascontiguousarray(_heads(rows, 2, head_dim // 2))


def _heads(rows: np.ndarray, first: int, second: int) -> np.ndarray:
    return rows.reshape(-1, first, second, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def dtype_of(model: Model, tensor: Tensor) -> np.dtype:
    """A tensor's own dtype."""
    return DTYPES[model.dtypes[str(tensor)]]


def stored_dtype(model: Model, parameter: str) -> np.dtype:
    """One dtype for all layers of an array, in which each layer's values are exact."""
    names = {model.dtypes[str(tensor)] for tensor in tensors(model.llama) if tensor.parameter == parameter}
    return DTYPES[names.pop() if len(names) == 1 else "float32"]


def checked_llama(where: str, **fields: Any) -> Llama:
    """A Llama from a foreign file's numbers.

    Raises:
        UserError: they are not a Llama's.
    """
    try:
        if min(fields[name] for name in ("dim", "layers", "heads", "kv_heads", "ffn_dim", "vocab_size")) < 1:
            raise ValueError("sizes must be positive")
        return Llama(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} does not describe a Llama: {error}") from None
