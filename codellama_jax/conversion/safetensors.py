"""The safetensors format: the header's length, a JSON header with the position of every tensor, then the tensors."""

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from codellama_jax.conversion.canonical import DTYPES
from codellama_jax.conversion.tensor_file import InputFile, StoredTensor
from codellama_jax.errors import UserError

NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_CODES = {name: code for code, name in NAMES.items()}
_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_ALIGNMENT = 8


def read(file: InputFile) -> dict[str, StoredTensor]:
    """The tensors of a file, by name.

    Raises:
        UserError: the file is damaged, or has a dtype that is not supported.
    """
    (length,) = _LENGTH.unpack(file.read(0, _LENGTH.size).data)
    try:
        if length > _MAX_HEADER_BYTES:
            raise ValueError("its length exceeds the limit")
        header = json.loads(bytes(file.read(_LENGTH.size, length)))
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            (begin, end), code, shape = entry["data_offsets"], entry["dtype"], tuple(entry["shape"])
            if code not in NAMES:
                raise UserError(f"{file.path}: {name} is {code}: only F32, BF16 and F16 are supported")
            tensors[name] = StoredTensor(file, _LENGTH.size + length + begin, shape, DTYPES[NAMES[code]])
            if tensors[name].nbytes != end - begin:
                raise ValueError(f"{name} has {end - begin} bytes for {list(shape)}")
        return tensors
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file.path} is damaged: its header is invalid ({error}); fetch it again") from None


def write(path: Path, tensors: Iterable[tuple[str, str, tuple[int, ...]]], blocks: Iterable[np.ndarray]) -> None:
    """Writes a file in one pass.

    Args:
        path: path of the file.
        tensors: name, dtype name and shape of each tensor, in order.
        blocks: their values in the same order, in blocks of any size.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers rejects a file without it
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
        assert file.tell() == _LENGTH.size + len(raw) + offset, "the blocks do not match the header"


def shards(sizes: Iterable[tuple[str, int]], max_bytes: int) -> Iterator[list[str]]:
    """Distributes tensors over files of at most `max_bytes`; a larger tensor has a file of its own."""
    names: list[str] = []
    total = 0
    for name, size in sizes:
        if names and total + size > max_bytes:
            yield names
            names, total = [], 0
        names.append(name)
        total += size
    yield names
