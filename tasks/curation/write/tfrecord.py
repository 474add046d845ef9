"""Writes TFRecord files of tf.train.Example without TensorFlow, with the same bytes on any machine.

Features are sorted by name; TensorFlow's writer leaves their order to protobuf.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import BinaryIO

import google_crc32c

_LENGTH, _DELIMITED = struct.Struct("<Q"), 2
_CHECKSUM = struct.Struct("<I")


def example(features: Mapping[str, str | int]) -> bytes:
    """A serialized tf.train.Example: strings become a bytes_list of one value, integers an int64_list of one value."""
    entries = []
    for name in sorted(features):
        value = features[name]
        if isinstance(value, int):
            feature = _field(3, _field(1, _varint(value)))  # packed
        else:
            feature = _field(1, _field(1, value.encode("utf-8")))
        entries.append(_field(1, _field(1, name.encode()) + _field(2, feature)))
    return _field(1, b"".join(entries))


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | _DELIMITED) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Protobuf's variable-length encoding of an integer that is at least 0."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def write(file: BinaryIO, records: Iterable[bytes]) -> tuple[int, str]:
    """Writes records with their lengths and masked CRC-32Cs.

    Returns:
        The number of bytes written, and their SHA-256 in hex.
    """
    size, digest = 0, hashlib.sha256()
    for record in records:
        length = _LENGTH.pack(len(record))
        framed = length + _checksum(length) + record + _checksum(record)
        file.write(framed)
        digest.update(framed)
        size += len(framed)
    return size, digest.hexdigest()


def _checksum(data: bytes) -> bytes:
    value = google_crc32c.value(data)
    return _CHECKSUM.pack(((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)
