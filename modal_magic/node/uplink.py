"""The agent's end of the line to its gateway: events of a turn go up in one message, orders come down."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import zmq

from modal_magic import protocol as p
from modal_magic.link import readiness

__all__ = ["Uplink"]


@dataclass(slots=True)
class Uplink:
    """What is to be sent, and when the gateway was last heard (monotonic seconds)."""

    socket: zmq.Socket[bytes]
    pending: list[bytes] = field(default_factory=list)
    heard: float = field(default_factory=time.monotonic)

    def tell(self, report: p.Report) -> None:
        """Send at once what must not wait. The queue is full only while the gateway is away; beats can be lost then."""
        with contextlib.suppress(zmq.Again):
            self.socket.send(p.encode(report), zmq.DONTWAIT)

    def emit(self, *events: p.NodeEvent | None) -> None:
        """Have events sent with the next flush."""
        self.pending += [p.encode(event) for event in events if event is not None]

    def pass_on(self, event: bytes) -> None:
        """Have an event sent that is bytes already."""
        self.pending.append(event)

    def flush(self) -> bool:
        """Send all events that are left in one message. Where the gateway is behind they are kept, and it is False."""
        if self.pending:
            try:
                self.socket.send(b"\x92\xa8Happened" + p.join(self.pending), zmq.DONTWAIT)
            except zmq.Again:
                return False
            self.pending.clear()
        return True

    def orders(self) -> Iterator[p.Order]:
        """The orders that have come."""
        while True:
            try:
                data = self.socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            self.heard = time.monotonic()
            yield p.decode_order(data)

    def takes_more(self) -> bool:
        """Whether all was sent and more can be."""
        return not self.pending and bool(readiness(self.socket) & zmq.POLLOUT)

    def is_dead(self, now: float) -> bool:
        """Whether the gateway has been silent for too long.

        Silence with something left to read is our own lateness: the whole node may have been stopped for a while.
        """
        return now - self.heard > p.DEAD_MAN_SECONDS and not readiness(self.socket) & zmq.POLLIN
