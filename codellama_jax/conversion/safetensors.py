"""The safetensors format: the header's length, a JSON header with the position of every tensor, then the tensors."""

import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from codellama_jax.conversion.canonical import DTYPES
from codellama_jax.conversion.json_values import loads
from codellama_jax.conversion.tensor_file import InputFile, StoredTensor
from codellama_jax.errors import UserError

# Bits of an element of each dtype that the safetensors library knows
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
_BITS |= {"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F4": 4, "F6_E2M3": 6}
_BITS |= {"F6_E3M2": 6, "F64": 64, "I64": 64, "U64": 64, "C64": 64}
NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_CODES = {name: code for code, name in NAMES.items()}
_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_ALIGNMENT = 8


def read(file: InputFile) -> dict[str, StoredTensor]:
    """The tensors of a file, by name.

    A file is valid if it is for the safetensors library, and if no key of its header occurs twice.

    Raises:
        UserError: the file is damaged, or has a dtype that is not supported.
    """
    (length,) = _LENGTH.unpack(file.read(0, _LENGTH.size).data)
    try:
        if length > _MAX_HEADER_BYTES:
            raise ValueError("its length exceeds the limit")
        entries, unsupported = _entries(loads(bytes(file.read(_LENGTH.size, length)).decode("utf-8")))
        _check_contiguous(entries, file.size - _LENGTH.size - length)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{file.path} is damaged: its header is invalid ({reason}); fetch it again") from None
    for name, code in unsupported.items():
        raise UserError(f"{file.path}: {name} is {code}: only F32, BF16 and F16 are supported")
    start = _LENGTH.size + length
    return {name: StoredTensor(file, start + begin, shape, dtype) for name, (begin, _, shape, dtype) in entries.items()}


_Entry = tuple[int, int, tuple[int, ...], np.dtype]  # begin and end in the data, shape, dtype


def _entries(header: Any) -> tuple[dict[str, _Entry], dict[str, str]]:
    """The tensors in a header, and the code of each tensor whose dtype is known but not supported.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the header is invalid.
    """
    if not isinstance(header, dict):
        raise ValueError("it is not a JSON object")
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ has a value that is not a string")
    entries, unsupported = {}, {}
    for name, entry in header.items():
        (begin, end), code, shape = entry["data_offsets"], entry["dtype"], tuple(entry["shape"])
        if any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in (begin, end, *shape)):
            raise ValueError(f"{name} has a size that is not a whole number")
        if code not in _BITS:
            raise ValueError(f"{name} has the unknown dtype {code!r}")
        name.encode()  # raises UnicodeEncodeError, a ValueError, if the name is not Unicode
        bits = _BITS[code]
        for size in shape:
            bits *= size
            if bits >= 1 << 64:
                raise ValueError(f"{name} has the impossible shape {list(shape)}")
        if bits != (end - begin) * 8:
            raise ValueError(f"{name} has {end - begin} bytes for {code} {list(shape)}")
        if code not in NAMES:
            unsupported[name] = code
        entries[name] = begin, end, shape, DTYPES[NAMES.get(code, "float32")]
    return entries, unsupported


def _check_contiguous(entries: dict[str, _Entry], size: int) -> None:
    """Checks that the tensors cover the data without gap or overlap: nobody can hide other content in the file.

    Raises:
        ValueError: they do not.
        UserError: the data is too short.
    """
    covered, previous = 0, "the header"
    for name, (begin, end, *_) in sorted(entries.items(), key=lambda item: item[1][:2]):
        if begin != covered:
            problem = "overlaps" if begin < covered else "does not begin at the end of"
            raise ValueError(f"{name} {problem} {previous}")
        covered, previous = end, name
    if covered < size:
        raise ValueError(f"{size - covered:,} bytes follow the last tensor")


def write(file: BinaryIO, tensors: Iterable[tuple[str, str, tuple[int, ...]]], blocks: Iterable[np.ndarray]) -> None:
    """Writes a file in one pass.

    Args:
        file: a new file, open for writing.
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
    file.write(_LENGTH.pack(len(raw)) + raw)
    written = 0
    for block in blocks:
        file.write(np.ascontiguousarray(block).view(np.uint8).data)
        written += block.nbytes
    assert written == offset, "the blocks do not match the header"


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
