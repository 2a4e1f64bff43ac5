"""The event log: every record once, numbered, on disk up to a limit, the newest in memory, read from any number."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from modal_magic import protocol as p
from modal_magic.lines import utf8_size
from modal_magic.segments import HEADER_BYTES, Entry, Segments, frame, split

__all__ = ["EventLog"]

MEMORY_BYTES = 4 * 1024 * 1024
WITHOUT_DISK = 8
"""How many times as much is held in memory while nothing can be written to disk."""
RUNS = 10_000
"""Of so many runs it is known where they lie: the newest."""
INDEX_BYTES = 64 * 1024
"""The place of a record is noted once in so many bytes; those behind it are found by reading on."""
READ_BYTES = 256 * 1024
ENDS = 1000
"""The ends of so many runs are kept when their records go: a client that was away must hear of them."""

PASSING = p.Output | p.OutputCut | p.Display | p.LiveEvent | p.StackTaken | p.Notice
"""Events that say nothing about how a run stands."""


@dataclass(slots=True)
class Span:
    """Where a run lies in the log: the numbers of its first and last record; and how many bytes of text it wrote."""

    first: int
    last: int
    size: int = 0


class EventLog:
    """Records numbered from 1 without gaps, in the files of a folder. The newest `memory` bytes are held in memory too.

    Past `limit` bytes the oldest records go, whole files of them; what tells how the session and the runs that go on
    stand is kept, and how the newest `ENDS` runs ended. Where the disk takes no more, `fault` says why, and only memory
    is left: nothing ends for that.

    A class because files must be closed.
    """

    def __init__(self, folder: Path, limit: int, memory: int = MEMORY_BYTES) -> None:
        self.newest = 0
        self.fault = ""
        self._files = Segments(folder, limit)
        self._memory = memory
        self._recent: list[Entry] = []
        self._held = 0
        self._numbers, self._positions = array("Q"), array("Q")
        self._runs: dict[str, Span] = {}
        self._standing: dict[str, list[Entry]] = {}
        self._ends: deque[Entry] = deque(maxlen=ENDS)

    def append(self, event: p.Event, now: float, withheld: bool = False) -> bytes:
        """Add an event and return its record's bytes. `now` is in seconds since 1970.

        What is withheld `since` leaves out, and `page` does not.
        """
        self.newest += 1
        entry = Entry(self.newest, withheld, p.encode(p.Record(self.newest, now, event)))
        self._write(entry)
        self._recent.append(entry)
        self._held += len(entry.record)
        if self._held > self._memory * (WITHOUT_DISK if self.fault else 1):
            self._forget_half()
        run = getattr(event, "run", "")
        if run:
            span = self._runs.setdefault(run, Span(self.newest, self.newest))
            if len(self._runs) > RUNS:
                del self._runs[next(iter(self._runs))]
            span.last = self.newest
            if isinstance(event, p.Output):
                span.size += utf8_size(event.text)
        self._note(event, run, entry)
        return entry.record

    def since(self, number: int, size: int) -> tuple[list[bytes], int]:
        """Records after `number`, in order, without those that are withheld; and the number that they reach up to.

        They are read until they come to about `size` bytes, withheld ones too, and at least one if there is one.
        """
        found: list[bytes] = []
        for entry in self._entries(number):
            number = entry.number
            if not entry.withheld:
                found.append(entry.record)
            size -= len(entry.record)
            if size <= 0:
                return found, number
        return found, max(number, self.newest)

    def page(self, request: str, run: str, ranks: list[int] | None, after: int, size: int) -> p.LogPage:
        """What the log has of a run after the record `after`: what was shown of it and how it failed, on these ranks.

        About `size` bytes are read for it, whatever of them belongs to the run.
        """
        span = self._runs.get(run)
        if span is None:
            return p.LogPage(request, run, [], None, 0, 0)
        found: list[bytes] = []
        text = 0
        for entry in self._entries(max(after, span.first - 1)):
            if entry.number > span.last:
                break
            event = p.decode_record(entry.record).event
            if getattr(event, "run", "") == run:
                text += utf8_size(event.text) if isinstance(event, p.Output) else 0
                if isinstance(event, p.Output | p.Display | p.Failed) and (ranks is None or event.rank in ranks):
                    found.append(entry.record)
            size -= len(entry.record)
            if size <= 0 and entry.number < span.last:
                return p.LogPage(request, run, found, entry.number, text, span.size)
        return p.LogPage(request, run, found, None, text, span.size)

    def close(self, keep: bool = False) -> None:
        """Forget everything, and remove the files where they are not to be kept."""
        self._files.close(keep)

    # -- reading

    def _entries(self, number: int) -> Iterator[Entry]:
        """What is there after a record, oldest first."""
        held = self._recent[0].number if self._recent else self.newest + 1
        if number + 1 < held:
            oldest = self._numbers[0] if self._numbers else held
            standing = [entry for entries in (*self._standing.values(), self._ends) for entry in entries]
            yield from sorted(entry for entry in standing if number < entry.number < oldest)
            for entry in self._stored(number):
                if entry.number >= held:
                    break
                yield entry
        for index in range(max(0, number + 1 - held), len(self._recent)):
            yield self._recent[index]

    def _stored(self, number: int) -> Iterator[Entry]:
        if not self._numbers:
            return
        position = self._positions[max(0, bisect_right(self._numbers, number + 1) - 1)]
        size = READ_BYTES
        while position < self._files.end:
            entries, used = split(self._files.read(position, size))
            for entry in entries:
                if entry.number > number:
                    yield entry
            if entries:
                position, size = position + used, READ_BYTES
            elif used > size or (used == 0 and size == READ_BYTES):
                size = max(used, HEADER_BYTES)  # one record that is larger than what was read
            else:
                return

    # -- writing

    def _write(self, entry: Entry) -> None:
        at = self._files.end
        try:
            first = self._files.write(frame(entry))
        except OSError as error:
            self.fault = self.fault or error.strerror or type(error).__name__
            return
        if first or at - self._positions[-1] >= INDEX_BYTES:
            self._numbers.append(entry.number)
            self._positions.append(at)
        if self._positions[0] < self._files.start:
            gone = bisect_right(self._positions, self._files.start - 1)
            del self._numbers[:gone], self._positions[:gone]
            for run in [run for run, span in self._runs.items() if span.last < self._numbers[0]]:
                del self._runs[run]

    def _forget_half(self) -> None:
        limit, gone = self._held // 2, 0
        while self._held > limit:
            self._held -= len(self._recent[gone].record)
            gone += 1
        del self._recent[:gone]

    def _note(self, event: p.Event, run: str, entry: Entry) -> None:
        if isinstance(event, p.SessionChanged):
            self._standing[""] = [entry]
        elif isinstance(event, p.RunEnded):
            self._standing.pop(run, None)
            self._ends.append(entry)
        elif isinstance(event, p.RunQueued | p.Submitted):
            self._standing.setdefault(run, []).append(entry)
        elif run in self._standing and not isinstance(event, PASSING):
            self._standing[run].append(entry)
