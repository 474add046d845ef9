"""llama2.c's one-file checkpoints (.bin, the legacy form of its export.py): in only.

Seven int32 (dim, ffn, layers, heads, kv heads, vocabulary, positions; a negative vocabulary: the head is not the
embedding), then float32 tensors, each of all layers, then cosines and sines, then the head if it is there.
"""

import math
import struct
from pathlib import Path

import numpy as np

from codellama_jax.conversion import canonical
from codellama_jax.conversion.canonical import Model, Tensor
from codellama_jax.conversion.tensor_file import InputFile, Stored
from codellama_jax.errors import UserError

_HEADER = struct.Struct("<7i")
_VERSIONED = 0x616B3432  # "ak42", with which the newer forms begin
_ORDER = ("embedding", "attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3", "norm")


def find(path: Path) -> Path | None:
    """The checkpoint at a path: the file itself, or the one .bin of a folder whose size is what its header says."""
    if path.is_file():
        return path if path.suffix == ".bin" else None
    found = [file for file in sorted(path.glob("*.bin")) if _size(file) == file.stat().st_size]
    return found[0] if len(found) == 1 else None


def _numbers(path: Path) -> tuple[int, ...] | None:
    with path.open("rb") as file:
        raw = file.read(_HEADER.size)
    return _HEADER.unpack(raw) if len(raw) == _HEADER.size else None


def _size(path: Path) -> int | None:
    """Bytes that the file should have; None if its first bytes are no header."""
    numbers = _numbers(path)
    if numbers is None or min(numbers[:5]) < 1 or numbers[6] < 1 or numbers[3] % numbers[4] or numbers[0] % numbers[3]:
        return None
    dim, ffn, layers, heads, kv_heads, signed_vocab, positions = numbers
    vocab, keys = abs(signed_vocab), kv_heads * (dim // heads)
    layer = 2 * dim * dim + 2 * keys * dim + 3 * ffn * dim + 2 * dim
    matrices = (2 if signed_vocab < 0 else 1) * vocab * dim
    return _HEADER.size + 4 * (matrices + layers * layer + dim + positions * (dim // heads))


class Llama2c:
    """A Source of a .bin file."""

    def __init__(self, path: Path):
        """Opens it.

        Raises:
            UserError: it is another kind of file, or cut short.
        """
        numbers = _numbers(path)
        if numbers and numbers[0] & 0xFFFFFFFF == _VERSIONED:
            raise UserError(f"{path} is of llama2.c's newer forms: export it with --version 0")
        wanted, size = _size(path), path.stat().st_size
        if numbers is None or wanted is None:
            raise UserError(f"{path} is not a checkpoint of llama2.c: its first 28 bytes are no header")
        if wanted != size:
            raise UserError(f"{path} has {size:,} bytes, its header says {wanted:,}: fetch it again")
        dim, ffn, layers, heads, kv_heads, signed_vocab, positions = numbers
        llama = canonical.checked_llama(
            str(path),
            dim=dim,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            ffn_dim=ffn,
            vocab_size=abs(signed_vocab),
        )
        dtypes = {str(tensor): "float32" for tensor in canonical.tensors(llama)}
        self.model = Model(llama, positions, dtypes, tied=signed_vocab > 0)
        self._file, offset = InputFile(path), _HEADER.size
        self._offsets: dict[str, int] = {}
        for name in _ORDER:
            self._offsets[name] = offset
            copies = layers if name in canonical.IN_LAYERS else 1
            offset += 4 * copies * math.prod(canonical.shape(llama, name))
        # cosines and sines of every position lie in between
        self._offsets["head"] = (
            self._offsets["embedding"] if self.model.tied else offset + 4 * positions * (dim // heads)
        )

    def rows(self, tensor: Tensor, start: int, stop: int) -> np.ndarray:
        """As Source.rows."""
        shape = canonical.shape(self.model.llama, tensor.name)
        offset = self._offsets[tensor.name] + 4 * (tensor.layer or 0) * math.prod(shape)
        rows = Stored(self._file, offset, shape, np.dtype("<f4")).rows(start, stop)
        if tensor.name in canonical.ROTARY:
            return canonical.half_split(rows, self.model.llama.head_dim)
        return rows

    def close(self) -> None:
        """As Source.close."""
        self._file.close()
