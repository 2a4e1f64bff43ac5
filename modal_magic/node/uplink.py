"""The agent's end of the line to its gateway: events of a turn go up in one message, orders come down."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.links.delivery import Delivery
from modal_magic.links.waiting import READ, WRITE
from modal_magic.links.wires import Wire

__all__ = ["Uplink"]


@dataclass(slots=True)
class Uplink:
    """What is to be sent, and when the gateway was last heard (monotonic seconds)."""

    wire: Wire
    pending: list[bytes] = field(default_factory=list)
    heard: float = field(default_factory=time.monotonic)
    line: Delivery = field(init=False)

    def __post_init__(self) -> None:
        self.line = Delivery(time.time_ns(), self.wire.send)

    def beat(self) -> None:
        """Say that this node lives."""
        self.line.beat()

    def tell(self, report: p.Report) -> None:
        """Send at once what must not wait."""
        self.line.say(p.encode(report))

    def emit(self, *events: p.NodeEvent | None) -> None:
        """Have events sent with the next flush."""
        self.pending += [p.encode(event) for event in events if event is not None]

    def pass_on(self, event: bytes) -> None:
        """Have an event sent that is bytes already."""
        self.pending.append(event)

    def flush(self) -> bool:
        """Send all events that are left in one message. Where the gateway is behind they are kept, and it is False."""
        self.line.push()
        if self.pending:
            if self.line.full:
                return False
            self.line.say(b"\x92\xa8Happened" + p.join(self.pending))
            self.pending.clear()
        return True

    def orders(self, ready: Mapping[int, int]) -> Iterator[p.Order]:
        """The orders that have come; `ready` is what the waiter found."""
        for frames in self.wire.receive(ready):
            self.heard = time.monotonic()
            data = self.line.take(frames, self.heard)
            if data is not None:
                yield p.decode_order(data)

    def takes_more(self) -> bool:
        """Whether the gateway keeps up with what it is sent."""
        return not self.line.full and not self.line.behind

    @property
    def awaits(self) -> int:
        """What a socket of ZeroMQ is to be waited for."""
        return READ | WRITE if self.line.behind else READ

    def is_dead(self, now: float) -> bool:
        """Whether the gateway has been silent for too long.

        Silence with something left to read is our own lateness: the whole node may have been stopped for a while.
        """
        return now - self.heard > p.DEAD_MAN_SECONDS and not self.wire.waiting()
