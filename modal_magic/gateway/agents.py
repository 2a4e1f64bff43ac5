"""The agents of a gateway: the line to each, which of them are heard, and which have fallen silent. No socket."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from modal_magic import protocol as p
from modal_magic.gateway.door import Door
from modal_magic.links.delivery import Delivery, epoch_of

__all__ = ["Agents"]


class Agents:
    """The agents of a session of so many nodes, by the identities under which they come. Times are in seconds."""

    def __init__(self, door: Door, nodes: int) -> None:
        self._door, self._nodes = door, nodes
        self._present: dict[bytes, tuple[int, float]] = {}
        self._silent: dict[bytes, int] = {}
        self._lines: dict[bytes, Delivery] = {}
        self._past: set[int] = set()

    def __contains__(self, identity: bytes) -> bool:
        """Whether the agent of this identity has joined and is heard."""
        return identity in self._present

    def take(self, identity: bytes, frames: list[bytes], now: float) -> tuple[int, p.Report] | None:
        """What a node reports that anything follows from, with its number.

        Raises one of `protocol.NOISE` for what is no message.
        """
        line = self._line(identity, epoch_of(frames))
        if line is None:
            return None
        data = line.take(frames, now)
        if identity in self._present:
            self._present[identity] = (self._present[identity][0], now)
        if data is None:
            return None
        report = p.decode_report(data)
        if isinstance(report, p.Joined):
            if report.version != p.VERSION or not 0 <= report.node_rank < self._nodes:
                return None
            self._present[identity] = (report.node_rank, now)
            self._silent.pop(identity, None)
            return report.node_rank, report
        if identity in self._silent:
            return self._from_silent(identity, report)
        if identity not in self._present:
            return None
        node_rank, _ = self._present[identity]
        if isinstance(report, p.Left):
            del self._present[identity]
        return node_rank, report

    def tell(self, node_rank: int, order: p.Order) -> None:
        """Give an order to the agent of a node."""
        data = p.encode(order)
        for identity, (number, _) in self._present.items():
            if number == node_rank:
                self._lines[identity].say(data)

    def beat(self, now: float, late: float) -> Iterator[int]:
        """Say to all that the gateway lives. Gives the nodes that have fallen silent, each as soon as it is known.

        For `late` seconds the gateway could not listen: nobody was silent in that time.
        """
        for identity, (node_rank, heard) in list(self._present.items()):
            self._lines[identity].beat()
            self._present[identity] = node_rank, heard + late
            if now - heard - late > p.SILENCE_SECONDS and not self._door.waiting():
                del self._present[identity]
                self._silent[identity] = node_rank
                yield node_rank
        for identity in self._silent:  # also to these: they stay as long as they hear of us
            self._lines[identity].beat()

    def _line(self, identity: bytes, epoch: int) -> Delivery | None:
        """The line to an agent; to the newest that came under this identity."""
        line = self._lines.get(identity)
        if line is None or line.epoch != epoch:
            if epoch in self._past:
                return None
            if line is not None:
                self._past.add(line.epoch)
            line = self._lines[identity] = Delivery(epoch, lambda frames: self._door.send(identity, *frames))
        return line

    def _from_silent(self, identity: bytes, report: p.Report) -> tuple[int, p.Report] | None:
        """A node that counts as gone speaks: what its ranks put out is kept, and it is asked who lives there."""
        node_rank = self._silent[identity]
        if isinstance(report, p.Happened):
            events = [event for event in report.events if isinstance(event, p.Output | p.Display)]
            return node_rank, msgspec.structs.replace(report, events=events)
        if isinstance(report, p.Left):
            del self._silent[identity]
            return node_rank, report
        self._lines[identity].say(p.encode(p.Rejoin()))
        return None
