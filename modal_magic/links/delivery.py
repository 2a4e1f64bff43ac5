"""One end of the line between a gateway and an agent, pure: nothing is lost, doubled or out of order."""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from modal_magic import protocol as p

__all__ = ["WINDOW_BYTES", "Delivery", "epoch_of"]

WINDOW_BYTES = 32 * 1024 * 1024
"""So much may be on its way before an end should say nothing more."""
RECEIPT_BYTES = 1024 * 1024
"""After so much the receiving end says what it has, and does not wait for its beat."""
REPEAT_SECONDS = 0.3
"""How long a gap may stay unfilled before the other end is asked again to repeat."""

BEAT = p.encode(p.Beat())
_head = struct.Struct(">QQQ?")


def epoch_of(frames: list[bytes]) -> int:
    """Which life of an agent a message belongs to. Raises DecodeError for what is no message of this line."""
    if len(frames) != 2 or len(frames[0]) != _head.size:
        raise msgspec.DecodeError("not a message between a gateway and an agent")
    return int(_head.unpack(frames[0])[0])


@dataclass(slots=True)
class Delivery:
    """What one end has said and heard. `transmit` sends the frames of one message; False: not now.

    Messages are numbered from 1 and kept until the other end has them. Each says how far its sender is, and how far it
    has heard the other. Where a connection broke, what comes next, at the latest a beat, shows the gap: then the
    receiver asks for a repetition. `epoch` is the agent's: another one that takes its place begins anew.
    """

    epoch: int
    transmit: Callable[[list[bytes]], bool]
    kept: deque[bytes] = field(default_factory=deque)
    size: int = 0
    received: int = 0
    sent: int = 0
    taken: int = 0
    unreceipted: int = 0
    asked_at: float = -math.inf

    @property
    def full(self) -> bool:
        """Whether enough is on its way."""
        return self.size > WINDOW_BYTES

    @property
    def behind(self) -> bool:
        """Whether something could not be sent."""
        return self.sent < self.received + len(self.kept)

    def say(self, message: bytes) -> None:
        """Have a message delivered, after those before it."""
        self.kept.append(message)
        self.size += len(message)
        self.push()

    def push(self) -> None:
        """Send what could not be sent before."""
        while self.behind:
            if not self._transmit(self.sent + 1, self.kept[self.sent - self.received]):
                return
            self.sent += 1

    def beat(self, again: bool = False) -> None:
        """Say that this end lives and how far it is; or that there is a gap."""
        self.push()
        self._transmit(self.sent, BEAT, again)

    def take(self, frames: list[bytes], now: float) -> bytes | None:
        """The message that has come (the time is given in seconds). None when it was here before or is out of turn.

        Raises DecodeError for what is no message of this line.
        """
        if epoch_of(frames) != self.epoch:
            return None
        _, number, received, again = _head.unpack(frames[0])
        self._receipt(received)
        if again:
            self.sent = self.received
            self.push()
        data = frames[1]
        beats = data == BEAT
        if number > self.taken + (not beats):
            if now - self.asked_at > REPEAT_SECONDS:
                self.asked_at = now
                self.beat(again=True)
        elif number == self.taken + 1:
            self.taken = number
            self.unreceipted += len(data)
            if self.unreceipted > RECEIPT_BYTES:
                self.beat()
            return data
        return data if beats else None

    def _transmit(self, number: int, message: bytes, again: bool = False) -> bool:
        if not self.transmit([_head.pack(self.epoch, number, self.taken, again), message]):
            return False
        self.unreceipted = 0
        return True

    def _receipt(self, number: int) -> None:
        """The other end has all up to this number."""
        while self.kept and self.received < number:
            self.size -= len(self.kept.popleft())
            self.received += 1
        self.sent = max(self.sent, self.received)
