"""The log of a run as its readers get it: from the gateway page by page, or from the files that a dead one has left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modal_magic import protocol as p
from modal_magic.segments import read_records

__all__ = ["RunLog", "asked", "left_behind"]


@dataclass(slots=True)
class RunLog:
    """What a run put out, to be read once, oldest first: outputs, displays and failures.

    `gone` counts the bytes of its text that the log has no more (`--log-limit`), as far as it has been read.
    """

    pages: Iterable[tuple[list[p.Event], int]]
    gone: int = 0

    def __iter__(self) -> Iterator[p.Event]:
        for events, gone in self.pages:
            self.gone = gone
            yield from events


def asked(ask: Callable[[str | None, int], p.LogPage], run: str | None) -> RunLog:
    """The log of a run (None: of the last one). `ask` asks the gateway for the page of a run after a record."""

    def pages() -> Iterator[tuple[list[p.Event], int]]:
        name, after, text = run, 0, 0
        while True:
            page = ask(name, after)
            text += page.text
            yield [p.decode_record(record).event for record in page.records], page.written - text
            if page.next is None:
                return
            name, after = page.run, page.next

    return RunLog(pages())


def left_behind(folder: Path, ranks: Collection[int] | None) -> RunLog:
    """The log of the last run of a session whose gateway is dead, as far as it is left."""
    run, submitted = None, False
    for record in read_records(folder):
        if isinstance(record.event, p.Submitted):
            run, submitted = record.event.run, True
        elif isinstance(record.event, p.Output) and not submitted:  # its beginning is past the log's limit
            run = record.event.run

    def pages() -> Iterator[tuple[list[p.Event], int]]:
        for record in read_records(folder):
            event = record.event
            if not isinstance(event, p.Output | p.Display | p.Failed):
                continue
            if event.run == run and (ranks is None or event.rank in ranks):
                yield [event], 0

    return RunLog(pages())
