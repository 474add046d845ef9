"""Messages over a socket: a length, then that many bytes."""

import socket
import struct

from codellama_jax.sandbox.inside.values import MOST_BYTES

_LENGTH = struct.Struct("<I")


class Closed(Exception):
    """The other side has closed the channel, or sent something that is no message."""


class Channel:
    """One end of a channel."""

    def __init__(self, descriptor: int):
        self._socket = socket.socket(fileno=descriptor)

    def send(self, message: bytes) -> None:
        """Sends a message. Raises Closed."""
        try:
            self._socket.sendall(_LENGTH.pack(len(message)) + message)
        except OSError:
            raise Closed from None

    def receive(self) -> bytes:
        """The next message. Raises Closed."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > 2 * MOST_BYTES:
            raise Closed
        return self._read(length)

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                part = self._socket.recv(min(count - len(data), 2**20))
            except OSError:
                raise Closed from None
            if not part:
                raise Closed
            data += part
        return bytes(data)
