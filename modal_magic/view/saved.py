"""A snapshot for where nothing runs: `text/html` without script or style, and `text/plain` of at most 100 columns."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from html import escape

from modal_magic.view.numbers import count, duration, in_ascii, percent, rate, size, sparkline, value
from modal_magic.view.snapshot import RankRow, Snapshot, columns

__all__ = ["as_html", "as_plain", "progress_line", "summary"]

COLUMNS = 100
ROWS = 32
"""Of more ranks than this, those are listed that are the furthest behind."""
METRICS = 4
"""So many metrics are shown of a rank, the first with its course."""
LABEL_CHARACTERS = 16
MARKS = {"done": "✓", "failed": "✗", "lost": "✗", "interrupted": "■", "running": "▶"}
URGENT = ("failed", "lost", "interrupted")


@dataclass(frozen=True, slots=True)
class Cell:
    """What one column shows of a rank."""

    title: str
    text: str
    code: bool = False


def summary(shot: Snapshot) -> tuple[str, str]:
    """The session with the state of its run, and a sentence on its ranks."""
    total = len(shot.ranks)
    took = duration(shot.seconds if shot.seconds is not None else shot.now - shot.began)
    states = [row.state for row in shot.ranks]
    match shot.run_state:
        case "done":
            told = f"{states.count('done')} of {total} ranks finished in {took} on {shot.where}."
        case "failed" | "interrupted":
            told = f"It ran {took} on {shot.where}."
        case "queued":
            told = "It waits for the run before it."
        case _:
            left = f", {duration(shot.left)} left" if shot.left is not None else ""
            told = f"{states.count('running')} of {total} ranks running for {took} on {shot.where}{left}."
    if shot.seconds is not None:
        ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(shot.began + shot.seconds))
        told = f"{told} Ended {ended}."
    if shot.failure is not None:
        told = f"{shot.failure.title}. {told}"
    return f"{shot.session}: {shot.run_state}", told


def progress_line(shot: Snapshot) -> str:
    """The run in one line, for where nothing can be drawn anew."""
    behind = min((row for row in shot.ranks if row.fraction is not None), key=_standing, default=None)
    parts = [f"{shot.session}: {duration(shot.now - shot.began)}"]
    if behind is not None and behind.loops:
        who = f"slowest, rank {behind.rank}: " if len(shot.ranks) > 1 else ""
        label = "step " if [loop.label for loop in behind.loops] in ([""], ["step"]) else ""
        parts.append(f"{who}{label}{_steps(behind)} at {rate(behind.loops[-1].rate)} step/s")
    if shot.left is not None:
        parts.append(f"{duration(shot.left)} left")
    for name in columns(shot)[1][:METRICS]:
        values = [metric.value for row in shot.ranks for metric in row.metrics if metric.name == name]
        span = value(min(values)) if min(values) == max(values) else f"{value(min(values))} to {value(max(values))}"
        parts.append(f"{name} {span}")
    return ", ".join(parts)


def as_html(shot: Snapshot) -> str:
    """One sentence, one table, and the error in a `details`. All text of ranks is escaped."""
    head, told = summary(shot)
    rows = _table(shot)
    parts = [f"<p><strong>{escape(head)}.</strong> {escape(told)}</p>"]
    if rows:
        titles = "".join(f"<th>{escape(cell.title)}</th>" for cell in rows[0])
        body = "".join(f"<tr><th>{escape(row[0].text)}</th>{''.join(map(_html_cell, row[1:]))}</tr>" for row in rows)
        parts.append(f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>")
    if len(shot.ranks) > ROWS:
        parts.append(f"<p>{len(shot.ranks) - ROWS:,} more ranks.</p>")
    if shot.failure is not None and shot.failure.text:
        parts.append(
            f"<details><summary>Traceback of rank {shot.failure.rank}</summary>"
            f"<pre>{escape(shot.failure.text)}</pre></details>"
        )
    return "\n".join(parts)


def as_plain(shot: Snapshot, width: int = COLUMNS, unicode: bool = True) -> str:
    """The same facts in lines of at most `width` columns, in ASCII where `unicode` is false."""
    head, told = summary(shot)
    rows = _table(shot)
    lines = [f"{head}  {told}"[:width]]
    if rows:
        texts = [[cell.title for cell in rows[0]], *([cell.text for cell in row] for row in rows)]
        widths = [max(len(row[index]) for row in texts) for index in range(len(texts[0]))]
        room, fitting = width, []
        for index, size in enumerate(
            widths[:-1]
        ):  # a column that would be cut is left out: half a number is a wrong one
            if index < 2 or size <= room:
                room -= size + 2
                fitting.append(index)
        for row in texts:
            rank, state, *rest = [row[index].rjust(widths[index]) for index in fitting]
            lines.append("  ".join([rank, state.strip().ljust(widths[1]), *rest, row[-1]])[:width].rstrip())
    if len(shot.ranks) > ROWS:
        lines.append(f"{len(shot.ranks) - ROWS:,} more ranks")
    text = "\n".join(lines)
    return text if unicode else in_ascii(text)


def _standing(row: RankRow) -> tuple[int, float, int]:
    """The order of ranks: what needs a person, then who is behind."""
    return (row.state not in URGENT, row.fraction if row.fraction is not None else math.inf, row.rank)


def _listed(shot: Snapshot) -> list[RankRow]:
    if len(shot.ranks) <= ROWS:
        return list(shot.ranks)
    return sorted(sorted(shot.ranks, key=_standing)[:ROWS], key=lambda row: row.rank)


def _table(shot: Snapshot) -> list[list[Cell]]:
    stepping, names = columns(shot)
    listed = _listed(shot)
    shown = [metric for row in listed for metric in row.metrics if metric.name in names[:1]]
    values = [number for metric in shown for number in metric.values if math.isfinite(number)]
    scale = (min(values), max(values)) if values else (0.0, 0.0)
    return [[*_cells(row, stepping, names[:METRICS], scale), *_used(row, shot), _last(row)] for row in listed]


def _used(row: RankRow, shot: Snapshot) -> list[Cell]:
    """What a rank uses; what is known of no rank has no column."""
    told = [
        ("cpu", percent(row.cpu), any(each.cpu is not None for each in shot.ranks)),
        ("memory", size(row.memory), any(each.memory is not None for each in shot.ranks)),
        ("gpu", percent(row.gpu), any(each.gpu is not None for each in shot.ranks)),
        ("gpu mem", size(row.gpu_memory), any(each.gpu_memory is not None for each in shot.ranks)),
    ]
    return [Cell(title, text) for title, text, known in told if known]


def _last(row: RankRow) -> Cell:
    return Cell("last line", row.last_line, code=True)


def _cells(row: RankRow, stepping: bool, names: list[str], scale: tuple[float, float]) -> list[Cell]:
    cells = [Cell("rank", str(row.rank)), Cell("state", _state(row))]
    if stepping:
        cells.append(Cell("step", _steps(row)))
        cells.append(Cell("step/s", rate(row.loops[-1].rate) if row.loops else ""))
    metrics = {metric.name: metric for metric in row.metrics}
    for name in names:
        metric = metrics.get(name)
        course = f"{sparkline(metric.values, *scale)} " if metric is not None and name == names[0] else ""
        cells.append(Cell(name, f"{course}{value(metric.value)}" if metric is not None else ""))
    return cells


def _state(row: RankRow) -> str:
    """`✗ failed line 12`; of a rank that waits or is waited for, that."""
    if row.awaited:
        return f"! straggler line {row.line}" if row.line else "! straggler"
    if row.waits_in:
        return f"‖ {row.waits_in}"
    line = f" line {row.line}" if row.line and row.state in ("failed", "interrupted") else ""
    return f"{MARKS.get(row.state, ' ')} {row.state}{line}"


def _steps(row: RankRow) -> str:
    """`epoch 1 / 3 › batch 12 / 30`: the outermost loop and the innermost."""
    shown = row.loops if len(row.loops) <= 2 else (row.loops[0], row.loops[-1])
    told = []
    for loop in shown:
        label = loop.label if loop.label != "step" else ""  # as the column is called
        if len(label) > LABEL_CHARACTERS:
            label = f"{label[: LABEL_CHARACTERS - 1]}…"
        of = f" / {count(loop.total)}" if loop.total is not None else ""
        told.append(f"{label} {count(loop.step)}{of}".lstrip())
    return " › ".join(told)


def _html_cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"<td><code>{text}</code></td>" if cell.code and text else f"<td>{text}</td>"
