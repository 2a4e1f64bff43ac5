"""Messages over a stream socket between processes of one node."""

from __future__ import annotations

import os
import socket
import threading

from modal_magic.links.framing import frame, split
from modal_magic.protocol import Message

__all__ = ["Channel"]

DESCRIPTORS = 64
"""So many are taken at once at most."""


class Channel:
    """One end of a socket pair. Any thread may send and post; one thread receives.

    `descriptors` are those that came along with messages and that nobody has taken yet. A class because a socket must
    be closed.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._lock = threading.Lock()
        self._buffer = bytearray()
        self._posted: list[Message] = []
        self.descriptors: list[int] = []
        self.disowned = False

    def send(self, message: Message, instead: bool = False) -> None:
        """Send a message, waiting while the other end is behind; `instead` of what was posted and has not gone out.

        Raises OSError when the other end is gone.
        """
        if self.disowned:
            return
        data = frame(message)
        with self._lock:
            posted, self._posted = self._posted, []
            self.socket.sendall(data if instead or not posted else b"".join([*map(frame, posted), data]))

    def post(self, message: Message) -> None:
        """Leave a message to go out with the next one that is sent, or with `flush`."""
        with self._lock:
            self._posted.append(message)

    def flush(self) -> None:
        """Send what was posted, if it has not gone out by now."""
        with self._lock:
            posted, self._posted = self._posted, []
            if posted and not self.disowned:
                self.socket.sendall(b"".join(map(frame, posted)))

    def receive(self) -> list[bytes] | None:
        """The messages that have come, waiting for some where the socket blocks. None: nobody speaks to us any more."""
        if self.disowned:
            return None
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return self._taken(data)

    def receive_with_descriptors(self) -> list[bytes] | None:
        """As `receive`. A message of many pieces has its descriptors with the first, so they may come before it."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 18, DESCRIPTORS)
        except ConnectionError:
            return None
        self.descriptors += descriptors
        return self._taken(data)

    def _taken(self, data: bytes) -> list[bytes] | None:
        if not data:
            return None
        self._buffer += data
        return split(self._buffer)

    def disown(self) -> None:
        """In a child that a rank forked: say and hear nothing more, for the socket is the parent's."""
        self._lock = threading.Lock()
        self.disowned = True

    def close(self) -> None:
        """Close this end, and what came along and was not taken."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()
        self.socket.close()
