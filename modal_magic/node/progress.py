"""What a rank tells of its progress: bars and metrics become events, each so often at most."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modal_magic import protocol as p

__all__ = ["EVENTS_PER_SECOND", "INTERVAL_SECONDS", "REPORTED", "Bar", "Reporter"]

REPORTED = 0
"""The number of the bar that `report(step=…)` moves; those of loops are counted from 1."""
INTERVAL_SECONDS = 0.1
"""A bar or a metric is told so often at most."""
LEAST_SECONDS = 0.05
"""No rate is taken of a shorter time: a bar is told twice at once where code sets its text just as tqdm shows it."""
EVENTS_PER_SECOND = 4096
"""All ranks together tell a bar so often at most, so that a thousand ranks do not flood their gateway."""
LABEL_CHARACTERS = 80


def _number(value: Any) -> float | None:
    """What a cell gave as a number, be it of numpy or a tensor; None where it is none.

    Whatever goes wrong in there, a loop does not end because of what it says of itself.
    """
    with contextlib.suppress(Exception):
        return float(value)
    return None


@dataclass(slots=True)
class Bar:
    """One loop of a cell: `began` at `first`, last `told` at a time, and the smoothed rate in steps a second.

    The rate was last taken `at` a time, when the loop stood at `last`.
    """

    number: int
    first: float
    began: float
    last: float
    at: float
    told: float = 0.0
    rate: float | None = None

    def advance(self, current: float, now: float) -> float | None:
        """The rate after moving to `current`. Bars that go back begin anew."""
        self.told = now
        seconds = now - self.at
        if current < self.last:
            self.first, self.began, self.last, self.at, self.rate = current, now, current, now, None
        if seconds < LEAST_SECONDS or (self.rate is None and current == self.first):
            return self.rate
        newest = (current - self.last) / seconds
        overall = (current - self.first) / (now - self.began)
        self.rate = overall if self.rate is None else 0.7 * self.rate + 0.3 * newest
        self.last, self.at = current, now
        return self.rate


@dataclass(slots=True)
class Reporter:
    """Tells the bars and metrics of one rank, each at most every `interval` seconds.

    `say` takes an event; `run` gives the run that goes on, empty where there is none. Threads may call it: what two of
    them say of one bar at the same time is told in either order.
    """

    rank: int
    say: Callable[[p.Progress | p.Metric], None]
    run: Callable[[], str]
    interval: float = INTERVAL_SECONDS
    clock: Callable[[], float] = time.monotonic
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    told: dict[int, Bar] = field(default_factory=dict)
    held: dict[str, tuple[float, float, object]] = field(default_factory=dict)
    reported: tuple[float, float | None] | None = None

    def move(self, number: int, label: str, step: float, total: float | None, ended: bool = False) -> None:
        """Say where a bar stands. Its owner limits how often."""
        run, current = self.run(), _number(step)
        if not run or current is None:
            return
        now = self.clock()
        bar = self.told.get(number)
        if bar is None:
            bar = self.told[number] = Bar(number, current, now, current, now)
        rate = bar.advance(current, now)
        if ended:
            del self.told[number]
            rate = (current - bar.first) / (now - bar.began) if now > bar.began else None
        self.say(p.Progress(self.rank, run, number, label[:LABEL_CHARACTERS], current, _number(total), ended, rate))

    def may_move(self, number: int) -> bool:
        """Whether a bar may be told again, for owners that do not limit themselves."""
        bar = self.told.get(number)
        return bar is None or self.clock() - bar.told >= self.interval

    def report(self, step: float | None, total: float | None, metrics: dict[str, object]) -> None:
        """Take what `modal_magic.report` was given. A value that comes too soon is told later, or overtaken."""
        if step is not None:
            self.reported = step, total
            if self.may_move(REPORTED):
                self.reported = None
                self.move(REPORTED, "step", step, total)
        now = self.clock()
        for name, value in metrics.items():
            due, count, _ = self.held.get(name, (0.0, 0.0, None))
            at = step if step is not None else count
            if now >= due:
                self.held[name] = now + self.interval, count + 1, None
                self.measure(name, value, at)
            else:
                # A tensor is not asked for its value here, which would wait for the GPU, nor is its graph kept alive.
                self.held[name] = due, count + 1, (at, value.detach() if hasattr(value, "detach") else value)

    def measure(self, name: str, value: Any, step: float) -> None:
        """Say a metric. What is no number is left out."""
        run, number, at = self.run(), _number(value), _number(step)
        if run and number is not None and at is not None:
            self.say(p.Metric(self.rank, run, name[:LABEL_CHARACTERS], number, at))

    def begin(self) -> None:
        """A cell begins: forget those of the one before it."""
        self.reported = None
        self.held.clear()
        self.told.clear()

    def finish(self) -> None:
        """The cell is over: say what was held back."""
        if self.reported is not None:
            self.move(REPORTED, "step", *self.reported)
        for name, (_, _, held) in self.held.items():
            if isinstance(held, tuple):
                self.measure(name, held[1], held[0])
