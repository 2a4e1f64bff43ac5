"""The runs of a session as one client has them: which event belongs to which run, and what nobody has seen."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator

from modal_magic import protocol as p
from modal_magic.errors import SessionError
from modal_magic.lines import utf8_size
from modal_magic.sessions.run import Run
from modal_magic.view.text import bytes_in_words

__all__ = ["SessionRuns"]

ENDED_RUNS = 1000
"""Of so many runs that are over it is known that what comes of them is to be shown with the next cell."""

LATE_BYTES = 1_000_000
"""So much of what earlier cells write after their end is kept until the next cell shows it."""


class SessionRuns:
    """The runs that go on, and the clock by which they are told. All but `begin` and `now` in the thread of the links.

    `found` are the runs of others that went on when this client attached, or whose end nobody had shown.
    """

    def __init__(self) -> None:
        self.found: list[Run] = []
        self._going: dict[str, Run] = {}
        self._told: dict[str, Run] = {}
        self._ended: deque[str] = deque(maxlen=ENDED_RUNS)
        self._late: deque[p.Output] = deque()
        self._late_bytes = self._left_out = 0
        self._clock_ahead = math.inf

    def __iter__(self) -> Iterator[Run]:
        """The runs that go on."""
        return iter(list(self._going.values()))

    def now(self) -> float:
        """The time of the session's own clock, that of its gateway, in seconds since 1970."""
        return time.time() - (self._clock_ahead if math.isfinite(self._clock_ahead) else 0.0)

    def begin(self, run: Run) -> None:
        """A run of this client. What threads of earlier cells have written since is shown with it."""
        while self._late:
            run.take(self._late.popleft(), self.now())
        if self._left_out:
            told = f"… {bytes_in_words(self._left_out)} more that earlier cells have written since are in the log alone"
            run.take(p.Notice(told), self.now())
        self._late_bytes = self._left_out = 0
        self._going[run.id] = run

    def forget(self, run: Run) -> None:
        """A run that was begun and never asked for."""
        self._going.pop(run.id, None)

    def find(self, run: Run, known: p.RunKnown) -> None:
        """A run that the gateway knew when this client came."""
        self._going[known.run] = run
        run.cell, run.old = known.cell, known.ended
        for rank, stream, text in known.rest:
            run.take(p.Output(rank, known.run, stream, text), self.now())
        self.found.append(run)

    def take(self, record: p.Record) -> None:
        """An event of the log."""
        event = record.event
        self._clock_ahead = min(self._clock_ahead, time.time() - record.time)
        if isinstance(event, p.Lost):
            for run in self:
                self._pass_on(run, record)
            return
        name = getattr(event, "run", None)
        if name in self._going:
            run = self._going[name]
            self._pass_on(run, record)
            if run.view.ended:
                del self._going[name]
                self._ended.append(name)
        elif isinstance(event, p.Output) and name in self._ended:
            # Threads and processes that a cell has left running write on: that is shown with the next cell.
            newest = next(reversed(list(self)), None)
            if newest is not None:
                self._pass_on(newest, record)
                return
            size = utf8_size(event.text)
            if self._left_out or self._late_bytes + size > LATE_BYTES:
                self._left_out += size
            else:
                self._late_bytes += size
                self._late.append(event)

    def _pass_on(self, run: Run, record: p.Record) -> None:
        run.take(record.event, record.time, record.sequence, more=True)
        self._told[run.id] = run

    def taken(self) -> None:
        """That was all for now: whoever follows a run is woken, once."""
        while self._told:
            self._told.popitem()[1].tell()

    def take_live(self, events: Iterable[p.LiveEvent]) -> None:
        """What has changed of bars and metrics."""
        for event in events:
            if (run := self._going.get(event.run)) is not None:
                run.take(event, self.now(), more=True)
                self._told[run.id] = run

    def refuse(self, name: str, reason: str) -> bool:
        """The gateway would not have a run. Whether it is one of these."""
        run = self._going.pop(name, None)
        if run is not None:
            run.refuse(reason)
        return run is not None

    def let_go(self, run: Run, error: SessionError) -> None:
        """Nobody here waits for this run any more."""
        if self._going.pop(run.id, None) is not None:
            run.give_up(error)

    def give_up(self, error: SessionError) -> None:
        """The session is gone, or ends, before its runs are over."""
        for run in self:
            run.give_up(error)
        self._going.clear()
