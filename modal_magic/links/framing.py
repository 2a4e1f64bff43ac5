"""Messages on a stream of bytes: four bytes of length, then the message."""

from __future__ import annotations

import struct

from modal_magic.protocol import MESSAGE_BYTES, Message, encode

__all__ = ["frame", "split"]

_LENGTH = struct.Struct("<I")


def frame(message: Message) -> bytes:
    """A message with its length before it."""
    data = encode(message)
    return _LENGTH.pack(len(data)) + data


def split(buffer: bytearray) -> list[bytes]:
    """Take the whole messages off the front of a buffer. Raises ValueError for a length that no message has."""
    found = []
    start = 0
    while len(buffer) - start >= 4:
        (length,) = _LENGTH.unpack_from(buffer, start)
        if length > MESSAGE_BYTES:
            raise ValueError("not a frame of ours")
        if len(buffer) - start < 4 + length:
            break
        found.append(bytes(buffer[start + 4 : start + 4 + length]))
        start += 4 + length
    del buffer[:start]
    return found
