"""The runs that a gateway knows: how much of each was shown, and what a new client is told and sent of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.gateway.log import EventLog

__all__ = ["RUNS", "KnownRuns", "Replay"]

RUNS = 1000
"""Of so many runs it is remembered that they were taken and how much of them was shown."""
UNSEEN = 16
"""At most so many runs that ended unseen are told to a new client: the newest."""

WATCHED = 5000
"""Who watches is sent what is among so many records of the output before it came, shown or not: it keeps the newest."""

SHOWN_ONCE = p.Output | p.OutputCut | p.Display | p.RunQueued | p.RunRetried
"""Events of a run that are of use to nobody once they were shown."""


@dataclass(slots=True)
class Replay:
    """What a new client is sent of the past, up to record number `until`: output of these runs after these numbers."""

    until: int
    shown: dict[str, int]

    def wants(self, record: p.Record) -> bool:
        """Whether a record is sent."""
        number, event = record.sequence, record.event
        if number > self.until:
            return True
        if isinstance(event, SHOWN_ONCE):
            return event.run in self.shown and number > self.shown[event.run]
        return not isinstance(event, p.Notice) or number > min(self.shown.values(), default=self.until)


@dataclass(slots=True)
class KnownRun:
    """How much of a run has been shown, by whichever client; `ended` is the number of its end's record."""

    owner: bytes
    cell: int
    begun: int
    shown: int
    rest: list[tuple[int, p.Stream, str]] = field(default_factory=list)
    ended: int = 0


class KnownRuns:
    """The runs that were taken, oldest first, up to a number of them."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._runs: dict[str, KnownRun] = {}

    def __contains__(self, run: str) -> bool:
        """Whether a run of this id was taken."""
        return run in self._runs

    def add(self, owner: bytes, task: p.Execute) -> bool:
        """Take a run, whose next record is the first of it. False for one that is known already."""
        if task.run in self._runs:
            return False
        if len(self._runs) >= RUNS:
            oldest = next(iter(self._runs))
            del self._runs[next((run for run, known in self._runs.items() if known.ended), oldest)]
        newest = self._log.newest
        self._runs[task.run] = KnownRun(owner, task.cell, newest, newest)
        return True

    def shown(self, shown: p.Shown) -> None:
        """A client has shown more of a run than any before."""
        known = self._runs.get(shown.run)
        if known is not None and known.shown < shown.sequence <= self._log.newest:
            known.shown, known.rest = shown.sequence, shown.rest

    def ended(self, run: str) -> None:
        """The newest record is the end of a run."""
        if run in self._runs:
            self._runs[run].ended = self._log.newest

    def to_watch(self, told: Collection[p.RunKnown]) -> dict[str, int]:
        """Of these runs, or of the newest where there are none, the number after which who watches is sent output."""
        runs = [known.run for known in told] or list(self._runs)[-1:]
        return {run: max(self._runs[run].begun, self._log.newest - WATCHED) for run in runs}

    def since(self, runs: Collection[str]) -> int:
        """The number of the record before the first of these runs."""
        return min((self._runs[run].begun for run in runs), default=self._log.newest)

    def to_tell(self, will_show: Callable[[bytes], bool], going: Collection[str]) -> list[p.RunKnown]:
        """The runs of which a new client must hear: those that go on, and those that ended unseen.

        `will_show` says whether another client is there that will show what it has asked for.
        """
        unseen = [run for run, known in self._runs.items() if known.shown < known.ended and not will_show(known.owner)]
        chosen = {*unseen[-UNSEEN:], *going}
        return [
            p.RunKnown(run, known.cell, known.ended > 0, known.shown, known.rest)
            for run, known in self._runs.items()
            if run in chosen
        ]
