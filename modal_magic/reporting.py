"""What a cell may say of its progress: `progress` and `report`. Off a rank they are a plain bar and nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from modal_magic.this_rank import rank_shell

if TYPE_CHECKING:
    from modal_magic.node.progress import Reporter

__all__ = ["progress", "report"]

Item = TypeVar("Item")


def progress(iterable: Iterable[Item], total: float | None = None, label: str = "") -> Iterator[Item]:
    """The items of an iterable, with a progress bar for them in every view of the session.

    `total` is the number of items, where it is known and `len` does not tell; `label` is shown beside the bar. Off a
    rank this is a bar of tqdm where that is installed, and else the items alone.
    """
    reporter = _reporter()
    if reporter is not None:
        return _told(reporter, iterable, total, label)
    try:
        from tqdm import tqdm
    except ImportError:
        return iter(iterable)
    return iter(tqdm(iterable, total=total, desc=label or None))


def report(*, step: float | None = None, total: float | None = None, **metrics: object) -> None:
    """Say how far this rank is, and numbers of it: `report(step=step, total=4000, loss=loss)`.

    Each metric is a number or what becomes one, a tensor of one element too. Views show the newest value, its course
    over the steps, and the rate of steps. Calls may come as often as they like: views are told ten times a second at
    most, and the last values of a cell always. A rank may report 100 metrics by different names, further names are left
    out. Off a rank this does nothing.
    """
    reporter = _reporter()
    if reporter is not None:
        reporter.report(step, total, metrics)


def _reporter() -> Reporter | None:
    """That of the rank that this process is."""
    return getattr(rank_shell(), "reporter", None)


def _told(reporter: Reporter, iterable: Iterable[Item], total: float | None, label: str) -> Iterator[Item]:
    if total is None:
        with contextlib.suppress(Exception):  # a DataLoader has a length, and raises where its data have none
            total = len(iterable)  # type: ignore[arg-type]
    number, done, due, clock = next(reporter.numbers), 0, 0.0, reporter.clock
    try:
        for item in iterable:
            if (now := clock()) >= due:
                due = now + reporter.interval
                reporter.move(number, label, done, total)
            yield item
            done += 1
    finally:
        reporter.move(number, label, done, total, ended=True)
