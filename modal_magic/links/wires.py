"""The two ways on which the messages of an agent reach its gateway: ZeroMQ, and on one machine a socket pair."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping
from typing import Protocol

import zmq

from modal_magic.links.waiting import READ, WRITE, readiness
from modal_magic.protocol import MESSAGE_BYTES

__all__ = ["PairWire", "Wire", "ZmqWire", "identity_of"]

LINGER_SECONDS = 0.5
_SIZES = struct.Struct("<II")


def identity_of(node_rank: int) -> bytes:
    """Under which identity the agent of a node comes to its gateway."""
    return f"node-{node_rank}".encode()


class Wire(Protocol):
    """Messages of two frames go out and come in, and nothing here waits. What a wire loses, `Delivery` repeats."""

    def send(self, frames: list[bytes]) -> bool:
        """Send a message. False when it cannot be taken now, or nobody is there."""
        ...

    def receive(self, ready: Mapping[int, int]) -> list[list[bytes]]:
        """The messages that have come; `ready` is what a waiter found."""
        ...

    def waiting(self) -> bool:
        """Whether something lies here that nobody has read."""
        ...

    def wanted(self) -> dict[int, int]:
        """The descriptors to wait for, and for what: none of a socket of ZeroMQ, which a waiter is given itself."""
        ...

    def close(self) -> None:
        """Close it. What was sent still goes out, for `LINGER_SECONDS`."""
        ...


class ZmqWire:
    """A wire over a DEALER, to a gateway anywhere."""

    def __init__(self, connection: zmq.Socket[bytes]) -> None:
        self.socket = connection

    def send(self, frames: list[bytes]) -> bool:
        """See `Wire`."""
        try:
            self.socket.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def receive(self, ready: Mapping[int, int]) -> list[list[bytes]]:
        """See `Wire`."""
        found = []
        while self.waiting():
            try:
                found.append(self.socket.recv_multipart(zmq.DONTWAIT))
            except zmq.Again:
                break
        return found

    def waiting(self) -> bool:
        """See `Wire`."""
        return bool(readiness(self.socket) & READ)

    def wanted(self) -> dict[int, int]:
        """See `Wire`."""
        return {}

    def close(self) -> None:
        """See `Wire`."""
        self.socket.close(linger=int(LINGER_SECONDS * 1000))


class PairWire:
    """A wire over one end of a socket pair: it costs no thread and no key, for a zygote has made both ends.

    Before each message stand the sizes of its frames.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._coming = bytearray()
        self._rest = bytearray()
        self.ended = False

    def send(self, frames: list[bytes]) -> bool:
        """See `Wire`. What the socket does not take at once goes out before all else."""
        head, body = frames
        self._push()
        if self._rest or self.ended:
            return False
        data = _SIZES.pack(len(head), len(body)) + head + body
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the other end is gone
            return False
        self._rest += data[sent:]
        return True

    def receive(self, ready: Mapping[int, int]) -> list[list[bytes]]:
        """See `Wire`. What is no message ends it."""
        events = ready.get(self._socket.fileno(), 0)
        if events & WRITE:
            self._push()
        if not events & READ:
            return []
        try:
            data = self._socket.recv(1 << 18)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self.ended = not data
        coming, start, found = self._coming, 0, []
        coming += data
        while len(coming) - start >= _SIZES.size:
            head, body = _SIZES.unpack_from(coming, start)
            first = start + _SIZES.size
            if head + body > MESSAGE_BYTES:
                self.ended = True
                break
            if len(coming) < first + head + body:
                break
            start = first + head + body
            found.append([bytes(coming[first : first + head]), bytes(coming[first + head : start])])
        del coming[:start]
        return found

    def waiting(self) -> bool:
        """See `Wire`."""
        try:
            return not self.ended and bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def wanted(self) -> dict[int, int]:
        """See `Wire`."""
        return {} if self.ended else {self._socket.fileno(): READ | WRITE if self._rest else READ}

    def close(self) -> None:
        """See `Wire`."""
        with contextlib.suppress(OSError):
            self._socket.settimeout(LINGER_SECONDS)
            self._socket.sendall(self._rest)
        self._socket.close()

    def _push(self) -> None:
        try:
            while self._rest:
                del self._rest[: self._socket.send(self._rest)]
        except BlockingIOError:
            pass
        except OSError:
            self._rest.clear()
