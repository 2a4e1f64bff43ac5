"""From chunks of text to whole lines, each of one rank; the reading of a log by lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from modal_magic.protocol import Event, Output, Stream, Submitted

__all__ = ["LINE_CHARACTERS", "LineAssembler", "read_lines"]

LINE_CHARACTERS = 1_000_000
"""A line longer than this is handed on in pieces: no notebook shows it, and nobody must hold it in memory."""
REPLY_CHARACTERS = 8_000_000


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

    def flush(self, only: int | None = None) -> list[tuple[int, Stream, str]]:
        """The unfinished lines (of one rank, or of all), as they are; afterwards there are none."""
        keys = [key for key in self._rest if only is None or key[0] == only]
        rest = [(*key, _visible(self._rest.pop(key))) for key in keys]
        return [(rank, stream, text) for rank, stream, text in rest if text]


def read_lines(
    events: Iterable[Event], run: str | None, ranks: Collection[int] | None, last: int | None
) -> tuple[list[tuple[int, Stream, str]], int]:
    """The lines that ranks wrote in a run (None: in any), in order, and how many older ones were left out.

    At most the `last` lines of each rank, and about 8 MB in all, the newest.
    """
    assembler = LineAssembler()
    kept: deque[tuple[int, Stream, str]] = deque()
    size = omitted = 0

    def keep(rank: int, stream: Stream, line: str) -> None:
        nonlocal size, omitted
        kept.append((rank, stream, line))
        size += len(line) + 1
        while size > REPLY_CHARACTERS and len(kept) > 1:
            size -= len(kept.popleft()[2]) + 1
            omitted += 1

    for event in events:
        if isinstance(event, Output):
            if (run is None or event.run == run) and (ranks is None or event.rank in ranks):
                for line in assembler.feed(event.rank, event.stream, event.text):
                    keep(event.rank, event.stream, line)
        elif isinstance(event, Submitted) and run is None:
            for rest in assembler.flush():
                keep(*rest)
    for rest in assembler.flush():
        keep(*rest)
    if last is None:
        return list(kept), omitted
    chosen: list[tuple[int, Stream, str]] = []
    taken: dict[int, int] = {}
    for entry in reversed(kept):
        if taken.get(entry[0], 0) < last:
            taken[entry[0]] = taken.get(entry[0], 0) + 1
            chosen.append(entry)
    return chosen[::-1], omitted + len(kept) - len(chosen)
