"""The newest lines that the ranks of a run have written, numbered, for those who look at them. Pure."""

from __future__ import annotations

from collections import Counter, deque

from modal_magic.lines import LineAssembler
from modal_magic.protocol import Stream

__all__ = ["LogLine", "NewestLines"]

LINES = 5000
"""So many are kept; the session's own log has all."""
LINE_CHARACTERS = 2000

LogLine = tuple[int, float | None, int, str, str]
"""Number, seconds since the run began where that is known, rank, stream, text."""


class NewestLines:
    """Takes what ranks write as it comes, and keeps whole lines."""

    def __init__(self) -> None:
        self._number = 0
        self._counts: Counter[int] = Counter()
        self._assembler = LineAssembler()
        self._lines: deque[LogLine] = deque(maxlen=LINES)

    def take(self, at: float | None, rank: int, stream: Stream, text: str) -> None:
        """A piece of text, `at` seconds since the run began."""
        for line in self._assembler.feed(rank, stream, text):
            self._keep(at, rank, stream, line)

    def end(self, at: float | None) -> None:
        """The run is over: what is left are lines as they are."""
        for rank, stream, line in self._assembler.flush():
            self._keep(at, rank, stream, line)

    def after(self, number: int, rank: int | None) -> list[LogLine]:
        """The lines behind this number, of a rank or of all (None)."""
        return [line for line in self._lines if line[0] > number and rank in (None, line[2])]

    def total(self, rank: int | None) -> int:
        """How many lines there were of a rank or of all (None), those that are not kept with them."""
        return self._number if rank is None else self._counts[rank]

    def _keep(self, at: float | None, rank: int, stream: str, text: str) -> None:
        self._number += 1
        self._counts[rank] += 1
        self._lines.append((self._number, None if at is None else round(at, 3), rank, stream, text[:LINE_CHARACTERS]))
