"""The log of a run in the output of a cell, its newest lines, or whole in a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from modal_magic import protocol as p
from modal_magic.errors import UsageError
from modal_magic.lines import Line, newest_lines, read_lines
from modal_magic.view.cell_output import show
from modal_magic.view.console import TURN_SECONDS
from modal_magic.view.pacing import PIECE, allowance_for, size_of
from modal_magic.view.text import bytes_in_words

if TYPE_CHECKING:
    from modal_magic.sessions.transcript import RunLog

__all__ = ["save_log", "show_log"]

SHOWN_BYTES = 200_000
"""What of a log is shown in a cell where nobody says how much: some thousand lines, and no notebook grows big."""
LABELS = {"result": "Out: ", "display": "display: "}


def labelled(line: Line) -> str:
    """A line as it is read: `[rank 2] text`, `[rank 2] Out: value`."""
    return f"[rank {line.rank}] {LABELS.get(line.kind, '')}{line.text}\n"


def show_log(log: RunLog, last: int | None, paced: bool) -> bool:
    """Show the newest lines of a log, and say what is not shown. Whether there was any."""
    lines, cut, cut_bytes = newest_lines(read_lines(log), last, SHOWN_BYTES, len("[rank 0] "))
    if log.gone:
        print(f"… {bytes_in_words(log.gone)} of this run are gone from the log, which is full (--log-limit)")
    if cut:
        earlier = f"{cut:,} earlier line{'s' * (cut != 1)} ({bytes_in_words(cut_bytes)})"
        print(f"… {earlier} not shown: --last N shows more, --file PATH writes all of them to a file", flush=True)
    allowance = allowance_for(paced)
    for part in _parts(lines):
        while not allowance.take(size_of(part)):
            time.sleep(TURN_SECONDS)
        show(part)
    return bool(lines)


def save_log(log: RunLog, path: Path) -> str:
    """Write all lines of a log to a file, and say so. Raises UsageError where the file cannot be written."""
    count = size = 0
    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for line in read_lines(log):
                size += file.write(labelled(line))
                count += 1
    except OSError as error:
        raise UsageError(f"--file {path}: {error.strerror}") from None
    gone = f"; {bytes_in_words(log.gone)} of this run are gone from the log" if log.gone else ""
    return f"{count:,} line{'s' * (count != 1)} ({bytes_in_words(size)}) written to {path}{gone}"


def _parts(lines: list[Line]) -> Iterator[tuple[p.Stream, str]]:
    """Lines put together to pieces of text for one stream."""
    texts: list[str] = []
    size, stream = 0, ""
    for line in lines:
        wanted: p.Stream = "stderr" if line.kind in ("stderr", "error") else "stdout"
        if texts and (wanted != stream or size > PIECE):
            yield ("stderr" if stream == "stderr" else "stdout"), "".join(texts)
            texts, size = [], 0
        stream = wanted
        texts.append(labelled(line))
        size += len(texts[-1])
    if texts:
        yield ("stderr" if stream == "stderr" else "stdout"), "".join(texts)
