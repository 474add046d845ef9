"""Messages over a pipe: a length, then JSON. A reader takes no byte of the next one, which is for another process."""

import json
import os
import struct
from typing import Any

_LENGTH = struct.Struct("<Q")


def write(descriptor: int, message: dict[str, Any]) -> None:
    """Writes a message. Raises OSError."""
    text = json.dumps(message).encode()
    data = memoryview(_LENGTH.pack(len(text)) + text)
    while data:
        data = data[os.write(descriptor, data) :]


def read(descriptor: int) -> dict[str, Any]:
    """The next message. Raises OSError; EOFError: there is no other."""
    (length,) = _LENGTH.unpack(_read(descriptor, _LENGTH.size))
    return json.loads(_read(descriptor, length))


def _read(descriptor: int, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = os.read(descriptor, min(count - len(data), 2**20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
