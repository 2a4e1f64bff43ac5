"""From chunks of text to whole lines, each of one rank; the log of a run as lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from modal_magic.protocol import Display, Event, Failed, Output, Stream

__all__ = ["LINE_CHARACTERS", "Line", "LineAssembler", "newest_lines", "read_lines", "utf8_size"]

LINE_CHARACTERS = 1_000_000
"""A line longer than this is handed on in pieces: no notebook shows it, and nobody must hold it in memory."""


def utf8_size(text: str) -> int:
    """How many bytes a text has as UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _visible(line: str) -> str:
    """What a terminal would show of a line in which `\\r` went back to its start (progress bars do)."""
    if "\r" not in line:
        return line
    line = line.rstrip("\r")
    last = line[line.rfind("\r") + 1 :]
    return last if last.strip() else ""  # a bar that has wiped itself out


class LineAssembler:
    """Collects chunks and hands out whole lines, so that two ranks never share one."""

    def __init__(self) -> None:
        self._rest: dict[tuple[int, Stream], str] = {}

    def feed(self, rank: int, stream: Stream, text: str) -> list[str]:
        """The lines that this chunk completes, without their line ends."""
        key = rank, stream
        rest = self._rest.pop(key, "")
        if "\n" not in text:
            rest = self._shorten(rest + text)
            if len(rest) <= LINE_CHARACTERS:
                self._rest[key] = rest
                return []
            return [rest]
        *lines, rest = (rest + text).split("\n")
        if rest:
            self._rest[key] = self._shorten(rest)
        return [_visible(line) for line in lines] if "\r" in text or lines[0].find("\r") >= 0 else lines

    def _shorten(self, rest: str) -> str:
        # Of a progress bar only the newest state counts; keep the last `\r`s, they may be half of a `\r\n`.
        start = rest.rstrip("\r").rfind("\r")
        return rest[start + 1 :] if start >= 0 else rest

    @property
    def unfinished(self) -> list[tuple[int, Stream, str]]:
        """The unfinished lines: rank, stream, text."""
        return [(rank, stream, text) for (rank, stream), text in self._rest.items()]

    def flush(self, only: int | None = None) -> list[tuple[int, Stream, str]]:
        """The unfinished lines (of one rank, or of all), as they are; afterwards there are none."""
        keys = [key for key in self._rest if only is None or key[0] == only]
        rest = [(*key, _visible(self._rest.pop(key))) for key in keys]
        return [(rank, stream, text) for rank, stream, text in rest if text]


Kind = Literal["stdout", "stderr", "display", "result", "error"]


class Line(NamedTuple):
    """A line of a rank in the log of a run: what it is, and its text without the line's end."""

    rank: int
    kind: Kind
    text: str


def read_lines(events: Iterable[Event]) -> Iterator[Line]:
    """The events of one run as lines: what ranks wrote, the text of what they displayed, and tracebacks."""
    assembler = LineAssembler()
    for event in events:
        if isinstance(event, Output):
            for text in assembler.feed(event.rank, event.stream, event.text):
                yield Line(event.rank, event.stream, text)
        elif isinstance(event, Display | Failed):
            told = event.error.traceback if isinstance(event, Failed) else _text_of(event)
            kind: Kind = "error" if isinstance(event, Failed) else "result" if event.kind == "result" else "display"
            if told:
                for rank, stream, text in assembler.flush(event.rank):
                    yield Line(rank, stream, text)
            for part in told:
                for text in part.split("\n"):
                    yield Line(event.rank, kind, text)
    for rank, stream, text in assembler.flush():
        yield Line(rank, stream, text)


def _text_of(event: Display) -> list[str]:
    return [str(event.data["text/plain"])] if event.kind != "clear" and "text/plain" in event.data else []


def newest_lines(
    lines: Iterable[Line], last: int | None, limit: int = 0, beside: int = 0
) -> tuple[list[Line], int, int]:
    """The newest lines: the `last` of each rank, else about `limit` bytes and all values and tracebacks.

    And how many lines and bytes the limit cut off. No more than these lines are held while the others are read.
    `beside` is what each line is shown with, in bytes: more than many a line has itself.
    """
    kept: dict[int, Line] = {}
    if last is not None:
        of_rank: dict[int, deque[int]] = {}
        for number, line in enumerate(lines):
            kept[number] = line
            numbers = of_rank.setdefault(line.rank, deque())
            numbers.append(number)
            if len(numbers) > last:
                del kept[numbers.popleft()]
        return list(kept.values()), 0, 0
    recent: deque[tuple[int, Line]] = deque()
    size = cut = cut_bytes = 0
    for number, line in enumerate(lines):
        if line.kind in ("result", "error"):
            kept[number] = line
            continue
        recent.append((number, line))
        size += utf8_size(line.text) + 1 + beside
        while size > limit and len(recent) > 1:
            count = utf8_size(recent.popleft()[1].text) + 1
            size, cut, cut_bytes = size - count - beside, cut + 1, cut_bytes + count
    return [line for _, line in sorted([*kept.items(), *recent])], cut, cut_bytes
