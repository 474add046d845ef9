"""llama2.c's single-file checkpoints (.bin, the legacy version of its export.py): import only.

A file starts with seven int32 values: dim, ffn, layers, heads, kv heads, vocabulary, positions; the vocabulary is
negative if the head is not tied to the embedding. The float32 tensors follow, each with all layers, then the cosines
and sines of all positions, then the head if it is not tied.
"""

import math
import struct
from pathlib import Path

import numpy as np

from codellama_jax.conversion import canonical
from codellama_jax.conversion.canonical import Model, Tensor
from codellama_jax.conversion.tensor_file import InputFile, StoredTensor
from codellama_jax.errors import UserError
from codellama_jax.runtime import filesystem

_HEADER = struct.Struct("<7i")
_VERSIONED = 0x616B3432  # "ak42", the first bytes of newer versions
_ORDER = ("embedding", "attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3", "norm")


def find(path: Path) -> Path | None:
    """The checkpoint at a path: the file itself, or the only .bin file of a folder with the size in its header.

    If no file has that size, the only one with a header, so that its damage is reported.
    """
    if path.is_file():
        return path if path.suffix == ".bin" else None
    sizes = {file: _size(file) for file in sorted(path.glob("*.bin"))}
    intact = [file for file, size in sizes.items() if size == filesystem.size(file)]
    readable = intact or [file for file, size in sizes.items() if size or _is_versioned(_numbers(file))]
    return readable[0] if len(readable) == 1 else None


def _is_versioned(numbers: tuple[int, ...] | None) -> bool:
    return numbers is not None and numbers[0] & 0xFFFFFFFF == _VERSIONED


def _numbers(path: Path) -> tuple[int, ...] | None:
    with filesystem.open_input(path) as file:
        raw = file.read(_HEADER.size)
    return _HEADER.unpack(raw) if len(raw) == _HEADER.size else None


def _size(path: Path) -> int | None:
    """The size of the file according to its header; None if it has no valid header."""
    numbers = _numbers(path)
    if numbers is None or min(numbers[:5]) < 1 or numbers[6] < 1 or numbers[3] % numbers[4] or numbers[0] % numbers[3]:
        return None
    dim, ffn, layers, heads, kv_heads, signed_vocab, positions = numbers
    vocab, keys = abs(signed_vocab), kv_heads * (dim // heads)
    layer = 2 * dim * dim + 2 * keys * dim + 3 * ffn * dim + 2 * dim
    matrices = (2 if signed_vocab < 0 else 1) * vocab * dim
    return _HEADER.size + 4 * (matrices + layers * layer + dim + positions * (dim // heads))


class Llama2c:
    """The Source of a .bin file."""

    def __init__(self, path: Path):
        """Opens the file.

        Raises:
            UserError: it has another format, or is truncated.
        """
        numbers = _numbers(path)
        if _is_versioned(numbers):
            raise UserError(f"{path} is a newer version of llama2.c's format: export it with --version 0")
        expected_size, size = _size(path), filesystem.size(path)
        if numbers is None or expected_size is None:
            raise UserError(f"{path} is not a checkpoint of llama2.c: its first 28 bytes are not a valid header")
        if expected_size != size:
            raise UserError(f"{path} has {size:,} bytes, but its header says {expected_size:,}: fetch it again")
        dim, ffn, layers, heads, kv_heads, signed_vocab, positions = numbers
        llama = canonical.checked_llama(
            path,
            dim=dim,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            ffn_dim=ffn,
            vocab_size=abs(signed_vocab),
            tied=signed_vocab > 0,
        )
        dtypes = {str(tensor): "float32" for tensor in canonical.tensors(llama)}
        self.model = Model(llama, positions, dtypes)
        self._file, offset = InputFile(path), _HEADER.size
        self._offsets: dict[str, int] = {}
        for name in _ORDER:
            self._offsets[name] = offset
            copies = layers if name in canonical.IN_LAYERS else 1
            offset += 4 * copies * math.prod(canonical.shape(llama, name))
        # an untied head follows the cosines and sines of all positions
        self._offsets["head"] = offset + 4 * positions * (dim // heads)

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """See Source.rows."""
        shape = canonical.shape(self.model.llama, tensor.name)
        offset = self._offsets[tensor.name] + 4 * (tensor.layer or 0) * math.prod(shape)
        rows = StoredTensor(self._file, offset, shape, np.dtype("<f4")).rows(start, stop)
        if tensor.name in canonical.ROTARY:
            return canonical.half_split(rows, self.model.llama.head_dim)
        return rows

    def close(self) -> None:
        """See Source.close."""
        self._file.close()
