"""The doors of a gateway: sockets of ZeroMQ, and the lines to those agents that were made on its own machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import zmq

from modal_magic import protocol as p
from modal_magic.links.framing import split
from modal_magic.links.waiting import READ, readiness
from modal_magic.links.wires import PairWire, identity_of
from modal_magic.specs import decode_introduced

__all__ = ["NodeDoor", "SocketDoor", "Take"]

TURN_MESSAGES = 200
"""How many messages are taken from a door before the other one, and the clock, are looked at again."""
ALONG = 64
"""So many descriptors are taken at once at most."""

Take = Callable[[bytes, list[bytes]], None]
"""What is done with a message: with the identity of its peer, and its frames."""


@dataclass(frozen=True, slots=True)
class SocketDoor:
    """A ROUTER."""

    socket: zmq.Socket[bytes]

    def send(self, identity: bytes, *frames: bytes) -> bool:
        """See `Door`."""
        try:
            self.socket.send_multipart([identity, *frames], zmq.DONTWAIT)
        except zmq.ZMQError:  # EAGAIN: its queue is full; EHOSTUNREACH: it is away
            return False
        return True

    def waiting(self) -> bool:
        """See `Door`."""
        return bool(readiness(self.socket) & READ)

    def drain(self, take: Take) -> None:
        """Hand over what has come. Noise costs its peer the message, and the session nothing."""
        for _ in range(TURN_MESSAGES):
            if not self.waiting():  # ahead of zmq.Again, which costs more than all else that is done with a message
                return
            try:
                identity, *frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            with contextlib.suppress(*p.NOISE):
                take(identity, frames)


@dataclass(slots=True)
class NodeDoor:
    """The door for agents: those of other machines come over a ROUTER, those of this one on lines that `bell` brings.

    The newest line to a node is the one that counts: an agent that takes the place of another comes with its own.
    """

    remote: SocketDoor
    bell: socket.socket | None
    lines: dict[bytes, PairWire] = field(default_factory=dict)
    rung: bytearray = field(default_factory=bytearray)

    def send(self, identity: bytes, *frames: bytes) -> bool:
        """See `Door`."""
        line = self.lines.get(identity)
        return self.remote.send(identity, *frames) if line is None else line.send([*frames])

    def waiting(self) -> bool:
        """See `Door`."""
        return self.remote.waiting() or any(line.waiting() for line in self.lines.values())

    def wanted(self) -> dict[int, int]:
        """The descriptors that are to be waited for, and for what."""
        wanted = {} if self.bell is None else {self.bell.fileno(): READ}
        for line in self.lines.values():
            wanted.update(line.wanted())
        return wanted

    def drain(self, take: Take, ready: Mapping[int, int]) -> None:
        """Hand over what has come, and take in who is new. Noise costs its peer the message."""
        self.remote.drain(take)
        if not ready:
            return
        for identity, line in self.lines.items():
            for frames in line.receive(ready):
                with contextlib.suppress(*p.NOISE):
                    take(identity, frames)
        if self.bell is not None and self.bell.fileno() in ready:
            self._answer(self.bell)

    def close(self) -> None:
        """Close all lines."""
        for line in self.lines.values():
            line.close()
        if self.bell is not None:
            self.bell.close()

    def _answer(self, bell: socket.socket) -> None:
        data, descriptors, _, _ = socket.recv_fds(bell, 4096, ALONG)
        if not data:  # the zygote is gone: nobody new will come
            bell.close()
            self.bell = None
        self.rung += data
        for word in split(self.rung):
            identity = identity_of(decode_introduced(word).node_rank)
            if identity in self.lines:
                self.lines[identity].close()
            self.lines[identity] = PairWire(socket.socket(fileno=descriptors.pop(0)))
