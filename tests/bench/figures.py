"""What a benchmark is, what it says, and the few numbers that all of them need."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Bench", "Row", "at_most", "median", "milliseconds", "percentile", "seconds"]

median = statistics.median


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. `met` is None where there is no bar: such a row is there to compare with."""

    figure: str
    ours: str
    beside: str = ""
    bar: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """One group of figures: how it is measured, in words and in code, and how many seconds it may take."""

    name: str
    limit: int
    how: str
    run: Callable[[], list[Row]]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that `percent` of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def at_most(figure: str, value: float, bar: float, show: Callable[[float], str], beside: str = "") -> Row:
    """A row whose value may not exceed its bar."""
    return Row(figure, show(value), beside, f"≤ {show(bar)}", value <= bar)


def seconds(value: float) -> str:
    """`0.21 s`."""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def milliseconds(value: float) -> str:
    """`1.20 ms`, of seconds."""
    return f"{value * 1000:.2f} ms" if value < 0.1 else f"{value * 1000:.0f} ms"
