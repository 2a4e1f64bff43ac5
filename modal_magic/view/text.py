"""A run as lines of text: `[rank 2] text`, whole lines, equal lines of many ranks merged, a flood ended in one line."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from modal_magic import protocol as p
from modal_magic.lines import LineAssembler
from modal_magic.ranges import name_ranks
from modal_magic.view.failure import retry_sentence

__all__ = ["MERGE_FROM", "Page", "Part", "TextView", "bytes_in_words"]

MERGE_FROM = 9
"""From so many ranks on equal lines are merged."""

Kind = p.Stream | Literal["value"]
"""Text of a stream, or that of a value, which is shown on stdout and never dropped."""
Part = tuple[Kind, str] | p.Display


@dataclass(slots=True)
class Page:
    """What is to be shown next: parts in order, each text for a stream or a rich output with its label before it."""

    parts: list[Part] = field(default_factory=list)

    def write(self, stream: Kind, text: str) -> None:
        """Add text; text of the same stream is put together."""
        if self.parts and isinstance(self.parts[-1], tuple) and self.parts[-1][0] == stream:
            self.parts[-1] = stream, self.parts[-1][1] + text
        else:
            self.parts.append((stream, text))


def bytes_in_words(count: int) -> str:
    """A number of bytes as people read it: `180 MB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


@dataclass(slots=True)
class Merged:
    """A line that several ranks have said, waiting for the others."""

    stream: Kind
    line: str
    number: int
    ranks: set[int]
    old: bool = False


class TextView:
    """Turns the events of a run into pages. `show` names the ranks whose output is wanted, None for all.

    A class because lines that are not finished yet must be kept between events.
    """

    def __init__(self, world_size: int, show: Collection[int] | None = None, merge: bool | None = None) -> None:
        self._show = frozenset(range(world_size) if show is None else show)
        self.merging = len(self._show) >= MERGE_FROM if merge is None else merge
        self._labels = {rank: f"[rank {rank}] " for rank in self._show}
        self._assembler = LineAssembler()
        self._merged: list[Merged] = []
        self._by_line: dict[tuple[Kind, str], list[Merged]] = {}
        self._count = 0
        self._lost: set[int] = set()
        self._reached: dict[int, int] = {}

    @property
    def holding(self) -> bool:
        """Whether a line waits for other ranks to say it too."""
        return bool(self._merged)

    @property
    def unfinished(self) -> list[tuple[int, p.Stream, str]]:
        """The lines that have been begun and not shown: rank, stream, text."""
        return self._assembler.unfinished

    def turn(self, events: Collection[p.Event | p.LiveEvent], last: bool) -> Page:
        """The page that these events make. `last` says that no more will come, so nothing is held back."""
        page = Page()
        cut: list[int] = []
        for event in events:
            if isinstance(event, p.Output) and event.rank in self._show:
                lines = self._assembler.feed(event.rank, event.stream, event.text)
                self._write(page, event.rank, event.stream, lines)
            elif isinstance(event, p.Display) and event.rank in self._show:
                self._display(page, event)
            elif isinstance(event, p.OutputCut) and event.rank in self._show:
                cut.append(event.rank)
            elif isinstance(event, p.RunRetried):
                self._finish_lines(page)
                page.write("stderr", f"{retry_sentence(event, self._lost)}\n")
                self._lost.clear()
            elif isinstance(event, p.Lost) and event.replaced:
                self._lost.add(event.rank)
            elif isinstance(event, p.Submitted):
                self._lost.clear()
        if last:
            self._finish_lines(page)
        else:
            self._flush_merged(page, everything=bool(cut))
        if cut:
            verb = "writes" if len(cut) == 1 else "write"
            told = f"… what {name_ranks(cut)} {verb} from here on goes to the log alone (--output-limit)"
            page.write("stderr", f"{told}\n")
        return page

    def _finish_lines(self, page: Page) -> None:
        for rank, stream, line in self._assembler.flush():
            self._write(page, rank, stream, [line])
        self._flush_merged(page, everything=True)

    def _write(self, page: Page, rank: int, stream: Kind, lines: list[str]) -> None:
        if not lines:
            return
        if not self.merging:
            label = self._labels[rank]
            page.write(stream, label + f"\n{label}".join(lines) + "\n")
            return
        for line in lines:
            # A rank joins what others have said only behind what it has joined already: it reads as it wrote.
            waiting = self._by_line.setdefault((stream, line), [])
            behind = self._reached.get(rank, 0)
            merged = next((entry for entry in waiting if entry.number > behind), None)
            if merged is None:
                self._count += 1
                merged = Merged(stream, line, self._count, set())
                waiting.append(merged)
                self._merged.append(merged)
            merged.ranks.add(rank)
            self._reached[rank] = merged.number

    def _flush_merged(self, page: Page, everything: bool) -> None:
        """Write the lines that all ranks have said or that have waited a turn, and those before them."""
        ripe = [index for index, entry in enumerate(self._merged) if entry.old or entry.ranks == self._show]
        count = len(self._merged) if everything else ripe[-1] + 1 if ripe else 0
        for entry in self._merged[:count]:
            page.write(entry.stream, f"[{name_ranks(entry.ranks)}] {entry.line}\n")
        del self._merged[:count]
        self._by_line.clear()
        for entry in self._merged:
            entry.old = True
            self._by_line.setdefault((entry.stream, entry.line), []).append(entry)

    def _display(self, page: Page, event: p.Display) -> None:
        if event.kind in ("display", "result"):
            for rank, stream, line in self._assembler.flush(event.rank):
                self._write(page, rank, stream, [line])
            if event.data.keys() <= {"text/plain"} and event.display_id is None:
                kind: Kind = "value" if event.kind == "result" else "stdout"
                self._write(page, event.rank, kind, str(event.data.get("text/plain", "")).split("\n"))
                return
            self._flush_merged(page, everything=True)
            page.write("value", f"[rank {event.rank}]\n")
        page.parts.append(event)
