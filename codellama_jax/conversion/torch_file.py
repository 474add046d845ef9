"""torch.save's zip files, without torch: read with a pickle that can build nothing but tensors, and written.

A file is a zip without compression: data.pkl, a pickle of names and tensors, and data/KEY, the numbers of one storage.
"""

import contextlib
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codellama_jax.conversion.canonical import DTYPES
from codellama_jax.conversion.tensor_file import InputFile, Stored
from codellama_jax.errors import UserError

_STORAGES = {"FloatStorage": "float32", "BFloat16Storage": "bfloat16", "HalfStorage": "float16"}
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip's entry: lengths of its name and of its extra field
_MOST_PICKLE = 100_000_000  # bytes; Meta's have fewer than a million
_ALIGNMENT = 64  # of a storage's bytes, so that torch may map them
_PADDING = 0x4246  # the extra field in which torch pads, "FB"


class _Storage(NamedTuple):
    dtype: str
    key: str
    numel: int


class _Unpickler(pickle.Unpickler):
    """Names of a pickle mean what this table says; every other is refused before anything of it is built."""

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
            raise UserError(f"{self._path} has tensors of torch.{name}: only float32, bfloat16 and float16 are read")
        raise UserError(
            f"{self._path} is refused: its pickle wants {module}.{name}, which tensors do not need and which could run"
            " anything; get the checkpoint from whom you trust, as safetensors"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, numel = pid
        if kind != "storage" or dtype not in _STORAGES.values():
            raise ValueError(f"unknown storage {pid}")
        return _Storage(dtype, str(key), int(numel))


class _Storages:
    """Where the storages of a zip lie in the file."""

    def __init__(self, file: InputFile, archive: zipfile.ZipFile, root: str):
        self._file, self._archive, self._root = file, archive, root

    def tensor(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Stored:
        """What torch's _rebuild_tensor_v2 stands for."""
        if stride != _strides(size) and math.prod(size) > 1:
            raise UserError(
                f"{self._file.path} has a tensor {list(size)} whose numbers are not in a row: save it again"
            )
        entry = self._archive.getinfo(f"{self._root}data/{storage.key}")
        dtype = DTYPES[storage.dtype]
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < storage.numel * dtype.itemsize:
            raise ValueError(f"storage {storage.key} has {entry.file_size} bytes for {storage.numel} numbers")
        if offset < 0 or min(size, default=0) < 0 or offset + math.prod(size) > storage.numel:
            raise ValueError(f"a tensor {list(size)} is larger than its storage")
        name, extra = _LOCAL_HEADER.unpack(self._file.read(entry.header_offset, _LOCAL_HEADER.size).data)
        begin = entry.header_offset + _LOCAL_HEADER.size + name + extra
        return Stored(self._file, begin + offset * dtype.itemsize, tuple(size), dtype)


def read(file: InputFile) -> dict[str, Stored]:
    """The tensors of a file by name; nothing of its pickle is executed.

    Raises:
        UserError: the file is damaged, or its pickle wants more than tensors (named).
    """
    try:
        with zipfile.ZipFile(file.path) as archive:
            pickles = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > _MOST_PICKLE:
                raise ValueError("it has no data.pkl")
            root = pickles[0].filename.removesuffix("data.pkl")
            with archive.open(pickles[0]) as data:
                found = _Unpickler(data, file.path, _Storages(file, archive, root)).load()
        if not isinstance(found, dict):
            raise ValueError("it holds no tensors by name")
        return {name: value for name, value in found.items() if isinstance(value, Stored)}
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        raise UserError(
            f"{file.path} is cut short, or not a zip of torch.save (1.6 or later): {error}; fetch it again"
        ) from None
    except Exception as error:  # a damaged pickle fails in any way
        raise UserError(f"{file.path} is damaged ({type(error).__name__}: {error}); fetch it again") from None


def _strides(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))


class Writer:
    """Writes a file that torch.load(weights_only=True, mmap=True) reads, one block of a tensor after the other."""

    def __init__(self, path: Path, tensors: list[tuple[str, str, tuple[int, ...]]]):
        """Writes what comes before the numbers.

        Args:
            path: of the file.
            tensors: name, dtype's name and shape of each, in the order in which they will come.
        """
        self._file = path.open("wb")
        self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        self._root = path.stem
        for name, content in (("data.pkl", _pickled(tensors)), ("byteorder", b"little"), ("version", b"3\n")):
            self._archive.writestr(zipfile.ZipInfo(f"{self._root}/{name}"), content)
        self._sizes = [DTYPES[dtype].itemsize * math.prod(shape) for _, dtype, shape in tensors]
        self._next, self._left = 0, 0
        self._entry: Any = None

    def write(self, block: np.ndarray) -> None:
        """The next numbers."""
        if self._left == 0:
            self._begin()
        self._entry.write(np.ascontiguousarray(block).view(np.uint8).data)
        self._left -= block.nbytes
        if self._left == 0:
            self._entry.close()

    def _begin(self) -> None:
        name, size = f"{self._root}/data/{self._next}", self._sizes[self._next]
        large = size > 1 << 30  # zipfile then writes a field of 20 bytes more
        info = zipfile.ZipInfo(name)
        header = self._file.tell() + 30 + len(name) + (20 if large else 0) + 4
        padding = -header % _ALIGNMENT
        info.extra = struct.pack("<HH", _PADDING, padding) + b"Z" * padding
        self._entry = self._archive.open(info, "w", force_zip64=large)
        self._next, self._left = self._next + 1, size

    def close(self) -> None:
        """Writes the directory."""
        assert self._left == 0 and self._next == len(self._sizes), "every tensor, whole"
        self._archive.close()
        self._file.close()

    def abandon(self) -> None:
        """Closes what will not be finished, in silence: zipfile would try to finish it when it is collected."""
        for open_file in (self._entry, self._archive, self._file):
            with contextlib.suppress(OSError, ValueError):
                if open_file is not None:
                    open_file.close()


def _pickled(tensors: list[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """A dict of names and tensors as torch.save writes it, in the opcodes of protocol 2."""
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
