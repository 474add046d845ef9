"""Reads and writes files of torch.save without torch. The unpickler can create only tensors.

A file is a zip archive without compression: data.pkl is a pickle of names and tensors, data/KEY has the values of
one storage.
"""

import contextlib
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from codellama_jax.conversion.canonical import DTYPES
from codellama_jax.conversion.tensor_file import InputFile, StoredTensor
from codellama_jax.errors import UserError

_STORAGES = {"FloatStorage": "float32", "BFloat16Storage": "bfloat16", "HalfStorage": "float16"}
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip entry: the lengths of its name and of its extra field
_MAX_PICKLE_BYTES = 100_000_000  # Meta's pickles have less than 1 MB
_ALIGNMENT = 64  # bytes; torch can memory-map aligned storages
_PADDING = 0x4246  # "FB", the id of the extra field that torch uses for padding


class _Storage(NamedTuple):
    dtype: str
    key: str
    numel: int


class _Unpickler(pickle.Unpickler):
    """Resolves only the names in a table; refuses all other names before any object is created."""

    def __init__(self, data: Any, path: Path, storages: "_Storages"):
        super().__init__(data, encoding="utf-8")
        self._path, self._storages = path, storages

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._storages.tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        if module == "torch" and name.endswith("Storage"):
            raise UserError(
                f"{self._path} has tensors of torch.{name}: only float32, bfloat16 and float16 are supported"
            )
        raise UserError(
            f"{self._path} is refused: its pickle uses {module}.{name}, which tensors do not need and which could run"
            " any code; get the checkpoint as safetensors, or from a source that you trust"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, numel = pid
        if kind != "storage" or dtype not in _STORAGES.values():
            raise ValueError(f"unknown storage {pid}")
        return _Storage(dtype, str(key), int(numel))


class _Storages:
    """Locates the storages of an archive in its file."""

    def __init__(self, file: InputFile, archive: zipfile.ZipFile, root: str):
        self._file, self._archive, self._root = file, archive, root

    def tensor(
        self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> StoredTensor:
        """Replaces torch._utils._rebuild_tensor_v2."""
        if stride != _strides(size) and math.prod(size) > 1:
            raise UserError(f"{self._file.path} has a tensor {list(size)} that is not contiguous: save it again")
        entry = self._archive.getinfo(f"{self._root}data/{storage.key}")
        dtype = DTYPES[storage.dtype]
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < storage.numel * dtype.itemsize:
            raise ValueError(f"storage {storage.key} has {entry.file_size} bytes for {storage.numel} values")
        if offset < 0 or min(size, default=0) < 0 or offset + math.prod(size) > storage.numel:
            raise ValueError(f"a tensor {list(size)} is larger than its storage")
        name, extra = _LOCAL_HEADER.unpack(self._file.read(entry.header_offset, _LOCAL_HEADER.size).data)
        begin = entry.header_offset + _LOCAL_HEADER.size + name + extra
        return StoredTensor(self._file, begin + offset * dtype.itemsize, tuple(size), dtype)


def read(file: InputFile) -> dict[str, StoredTensor]:
    """The tensors of a file, by name. No code in its pickle is executed.

    Raises:
        UserError: the file is damaged, or its pickle uses names that tensors do not need (the message names one).
    """
    try:
        with zipfile.ZipFile(file.as_file()) as archive:
            pickles = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
                raise ValueError("it has no data.pkl")
            root = pickles[0].filename.removesuffix("data.pkl")
            with archive.open(pickles[0]) as data:
                content = _Unpickler(data, file.path, _Storages(file, archive, root)).load()
        if not isinstance(content, dict):
            raise ValueError("it is not a dictionary of tensors")
        return {name: value for name, value in content.items() if isinstance(value, StoredTensor)}
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{file.path} is truncated, or not a zip file of torch.save (1.6 or later): {error}; fetch it again"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{file.path} is damaged ({type(error).__name__}: {error}); fetch it again") from None


def _strides(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))


class Writer:
    """Writes a file for torch.load(weights_only=True, mmap=True), one block of a tensor at a time."""

    def __init__(self, file: BinaryIO, root: str, tensors: list[tuple[str, str, tuple[int, ...]]]):
        """Writes everything that precedes the values.

        Args:
            file: a new file, open for writing. It need not be seekable.
            root: name of the folder in the archive.
            tensors: name, dtype name and shape of each tensor, in the order in which their values will be written.
        """
        self._file: Any = file
        self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        self._root = root
        for name, content in (("data.pkl", _pickled(tensors)), ("byteorder", b"little"), ("version", b"3\n")):
            self._archive.writestr(zipfile.ZipInfo(f"{self._root}/{name}"), content)
        self._sizes = [DTYPES[dtype].itemsize * math.prod(shape) for _, dtype, shape in tensors]
        self._next, self._remaining = 0, 0
        self._entry: Any = None

    def write(self, block: np.ndarray) -> None:
        """Writes the next values."""
        if self._remaining == 0:
            self._start_entry()
        self._entry.write(np.ascontiguousarray(block).view(np.uint8).data)
        self._remaining -= block.nbytes
        if self._remaining == 0:
            self._entry.close()

    def _start_entry(self) -> None:
        name, size = f"{self._root}/data/{self._next}", self._sizes[self._next]
        large = size > 1 << 30  # zipfile then adds a field of 20 bytes
        info = zipfile.ZipInfo(name)
        header = self._file.tell() + 30 + len(name) + (20 if large else 0) + 4
        padding = -header % _ALIGNMENT
        info.extra = struct.pack("<HH", _PADDING, padding) + b"Z" * padding
        self._entry = self._archive.open(info, "w", force_zip64=large)
        self._next, self._remaining = self._next + 1, size

    def close(self) -> None:
        """Writes the directory of the archive and closes the file."""
        assert self._remaining == 0 and self._next == len(self._sizes), "a tensor is incomplete"
        self._archive.close()
        self._file.close()

    def abandon(self) -> None:
        """Closes an incomplete file, ignoring errors: zipfile would otherwise finish it at garbage collection."""
        with contextlib.suppress(Exception):  # an upload is cancelled, because closing it would complete it
            getattr(self._file, "terminate", self._file.close)()
        for open_file in (self._entry, self._archive):
            with contextlib.suppress(OSError, ValueError):
                if open_file is not None:
                    open_file.close()


def _pickled(tensors: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Pickles a dict of names and tensors like torch.save, with the opcodes of protocol 2."""
    kinds = {dtype: kind for kind, dtype in _STORAGES.items()}

    def text(value: str) -> bytes:
        raw = value.encode()
        return b"X" + struct.pack("<I", len(raw)) + raw

    def number(value: int) -> bytes:
        if value < 1 << 31:
            return b"J" + struct.pack("<i", value)
        raw = value.to_bytes(8, "little")
        return b"\x8a" + bytes([len(raw)]) + raw

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    parts = [b"\x80\x02}("]
    for key, (name, dtype, shape) in enumerate(tensors):
        storage = f"ctorch\n{kinds[dtype]}\n".encode() + text(str(key)) + text("cpu") + number(math.prod(shape))
        parts += [
            text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"(" + text("storage") + storage + b"tQ",
            number(0) + numbers(shape) + numbers(_strides(shape)),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]
    return b"".join([*parts, b"u."])
