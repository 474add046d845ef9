"""The safetensors format: a length, a JSON header with every tensor's place, then the tensors."""

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from codellama_jax.conversion.canonical import DTYPES
from codellama_jax.conversion.tensor_file import InputFile, Stored
from codellama_jax.errors import UserError

NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_CODES = {name: code for code, name in NAMES.items()}
_LENGTH = struct.Struct("<Q")
_MOST_HEADER = 100_000_000  # bytes, as the library has it
_ALIGNMENT = 8


def read(file: InputFile) -> dict[str, Stored]:
    """The tensors of a file, by name.

    Raises:
        UserError: the file is damaged, or has another kind of numbers.
    """
    (length,) = _LENGTH.unpack(file.read(0, _LENGTH.size).data)
    try:
        if length > _MOST_HEADER:
            raise ValueError("its header would be larger than any")
        header = json.loads(bytes(file.read(_LENGTH.size, length)))
        header.pop("__metadata__", None)
        found = {}
        for name, entry in header.items():
            (begin, end), code, shape = entry["data_offsets"], entry["dtype"], tuple(entry["shape"])
            if code not in NAMES:
                raise UserError(f"{file.path}: {name} is {code}, which is not read: only F32, BF16 and F16 are")
            found[name] = Stored(file, _LENGTH.size + length + begin, shape, DTYPES[NAMES[code]])
            if found[name].nbytes != end - begin:
                raise ValueError(f"{name} has {end - begin} bytes for {list(shape)}")
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file.path} is damaged: its header is not safetensors' ({error}); fetch it again") from None


def write(path: Path, tensors: Iterable[tuple[str, str, tuple[int, ...]]], blocks: Iterable[np.ndarray]) -> None:
    """Writes a file in one pass.

    Args:
        path: of the file.
        tensors: name, dtype's name and shape of each, in order.
        blocks: their numbers, in that order, in pieces of any size.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # without which transformers refuses the file
    offset = 0
    for name, dtype, shape in tensors:
        nbytes = int(np.prod(shape, dtype=np.int64)) * DTYPES[dtype].itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(_LENGTH.pack(len(raw)) + raw)
        for block in blocks:
            file.write(np.ascontiguousarray(block).view(np.uint8).data)
        assert file.tell() == _LENGTH.size + len(raw) + offset, "as many bytes as the header says"


def shards(sizes: Iterable[tuple[str, int]], most: int) -> Iterator[list[str]]:
    """Names in files of at most so many bytes each, or of one tensor that is larger."""
    held: list[str] = []
    total = 0
    for name, size in sizes:
        if held and total + size > most:
            yield held
            held, total = [], 0
        held.append(name)
        total += size
    yield held
