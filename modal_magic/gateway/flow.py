"""How much output of a run goes to clients: each rank has its share, and what is past the limit stays in the log."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from modal_magic import protocol as p
from modal_magic.lines import utf8_size

__all__ = ["Flow", "Flows"]


@dataclass(slots=True)
class Flow:
    """What a run has put out since it `began` (monotonic seconds). Sizes are in bytes of UTF-8.

    Half of the limit is shared out to the ranks, so that one which floods leaves the others their part; the other half
    is for whoever writes more.
    """

    limit: int | None
    ranks: int
    began: float
    withheld: int = 0
    cut: set[int] = field(default_factory=set)
    common: int = 0
    own: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Share the limit out."""
        if self.limit is not None:
            self.common = self.limit - self.ranks * self._share()

    def _share(self) -> int:
        return (self.limit or 0) // (2 * self.ranks)

    def admit(self, rank: int, text: str) -> tuple[str, str]:
        """Text of a rank that may be sent, and the rest, which is withheld: cut where a line begins, and for good."""
        if self.limit is None:
            return text, ""
        size, own = utf8_size(text), self.own.setdefault(rank, self._share())
        room = 0 if rank in self.cut else own + self.common
        shown, withheld = text, ""
        if size > room:
            data = text.encode()
            cut = data.rfind(b"\n", 0, room) + 1
            shown, withheld = (data[:cut].decode(), data[cut:].decode()) if cut else ("", text)
            self.withheld += size - cut
            self.cut.add(rank)
            size = cut
        self.own[rank] = max(0, own - size)
        self.common -= max(0, size - own)
        return shown, withheld


class Flows:
    """The flows of the newest runs, at most so many: threads that a cell has left may still write, but not for ever."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._flows: dict[str, Flow] = {}

    def __len__(self) -> int:
        return len(self._flows)

    def __contains__(self, run: str) -> bool:
        return run in self._flows

    def add(self, run: str, limit: int | None, ranks: int, now: float) -> None:
        """A run was asked for on so many ranks, with this limit in bytes."""
        if len(self._flows) >= self._most:
            del self._flows[next(iter(self._flows))]
        self._flows[run] = Flow(limit, ranks, now)

    def begin(self, run: str, now: float) -> None:
        """The first attempt of a run was sent to its ranks."""
        if run in self._flows:
            self._flows[run].began = now

    def end(self, event: p.RunEnded, now: float) -> p.RunEnded:
        """The end of a run, with how long it took and what was withheld."""
        flow = self._flows.get(event.run)
        if flow is None:
            return event
        return msgspec.structs.replace(event, seconds=now - flow.began, withheld=flow.withheld)

    def divide(self, event: p.Output) -> list[tuple[p.Event, bool]]:
        """The events that text becomes, and of each whether it is withheld from clients."""
        flow = self._flows.get(event.run)
        if flow is None:
            return [(event, False)]
        cut_before = event.rank in flow.cut
        shown, withheld = flow.admit(event.rank, event.text)
        if not withheld:
            return [(event, False)]
        events: list[tuple[p.Event, bool]] = []
        if shown:
            events.append((msgspec.structs.replace(event, text=shown), False))
        if not cut_before:
            events.append((p.OutputCut(event.run, event.rank), False))
        events.append((msgspec.structs.replace(event, text=withheld), True))
        return events
