"""The bytes of a record file, decompressed by its extension: gzip, Zstandard, xz or bzip2.

A file may consist of several members, streams or frames, as written by programs that compress in parallel. zstandard
is imported for Zstandard only.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from tasks.sources.files import COMPRESSIONS, Found
from tasks.sources.records.record_file import open_checked

_EXTENSION = re.compile(rf"\.({'|'.join(COMPRESSIONS)})$", re.IGNORECASE)

# What the decoders raise if the data is damaged. open_checked raises UserError if the file cannot be read.
DECODING_ERRORS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)

# The largest window of the format (zstd --ultra --long=31). Decoding such a file takes up to this much memory.
_ZSTANDARD_WINDOW = 1 << 31
# A failed read discards what it has decompressed before the damage. Small reads are as fast as larger ones here. They
# also bound the memory: a block of Zstandard has at least 4 bytes, and decodes to at most 128 KiB.
_READ = 1 << 10


def is_compressed(file: Found) -> bool:
    """Whether the file has the extension of a compression format."""
    return _EXTENSION.search(file.location) is not None


@contextlib.contextmanager
def open_decompressed(file: Found) -> Iterator[BinaryIO]:
    """Opens a record file, and decompresses it if its extension names a compression format. It cannot be seeked.

    Reading damaged data raises one of DECODING_ERRORS.

    Raises:
        UserError: the file cannot be read.
    """
    with open_checked(file) as stored:
        match = _EXTENSION.search(file.location)
        stream: Any = _DECODERS[match[1].lower()](stored) if match else stored
        with stream:
            yield stream


class _Frames(io.RawIOBase):
    """The content of the frames of a file, one after the other.

    bz2.BZ2File and lzma.LZMAFile ignore everything after a frame whose header is damaged, without an error.
    """

    def __init__(self, stored: BinaryIO, new_decoder: Callable[[], Any], padding: bytes = b""):
        self._stored, self._new_decoder, self._padding = stored, new_decoder, padding
        self._decoder: Any = None  # of the current frame
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            data, self._input = self._input or self._stored.read(_READ), b""
            if not data:
                if self._decoder is not None:
                    raise EOFError("Truncated: the file ended before the end of the compressed data")
                return 0
            if self._decoder is None:
                if self._padding and not (data := data.lstrip(self._padding)):
                    continue
                self._decoder = self._new_decoder()
            self._output = memoryview(self._decoder.decompress(data))
            if self._decoder.eof:
                self._input, self._decoder = self._decoder.unused_data, None
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count


class _ZstandardFrame:
    """The interface of bz2.BZ2Decompressor for a frame, which may be a skippable one."""

    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._frame = zstandard.ZstdDecompressor(max_window_size=_ZSTANDARD_WINDOW).decompressobj()

    def decompress(self, data: bytes) -> bytes:
        try:
            return self._frame.decompress(data)
        except self._error as error:
            raise ValueError(f"ZSTD: {error}") from None

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data


def _zstandard(stored: BinaryIO) -> BinaryIO:
    return io.BufferedReader(_Frames(stored, _ZstandardFrame))


def _xz(stored: BinaryIO) -> BinaryIO:
    return io.BufferedReader(_Frames(stored, lzma.LZMADecompressor, padding=b"\0"))


def _bzip2(stored: BinaryIO) -> BinaryIO:
    return io.BufferedReader(_Frames(stored, bz2.BZ2Decompressor))


def _gzip(stored: BinaryIO) -> Any:
    return gzip.GzipFile(fileobj=stored)


_DECODERS: dict[str, Callable[[BinaryIO], Any]] = {
    "gz": _gzip,
    "zst": _zstandard,
    "zstd": _zstandard,
    "xz": _xz,
    "bz2": _bzip2,
}
