"""A metric of many ranks as a band: at each step the lowest, the mean and the highest value. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import msgspec

__all__ = ["Band", "band"]

POINTS = 96
Course = Sequence[tuple[float, float]]
"""Steps and values of one rank, oldest first."""


class Band(msgspec.Struct, frozen=True):
    """Steps and, for each, what the ranks had last reported up to it; NaN where none had."""

    steps: tuple[float, ...]
    low: tuple[float, ...]
    mean: tuple[float, ...]
    high: tuple[float, ...]


def band(known: Sequence[Course], points: int = POINTS) -> Band:
    """The band of these courses, in about so many points."""
    steps = [[step for step, _ in course] for course in known]
    every = sorted({step for course in steps for step in course})
    stride = max(1, math.ceil(len(every) / points))
    chosen = every[::stride]
    if every and chosen[-1] != every[-1]:
        chosen.append(every[-1])
    rows = [_spread(_values_at(known, steps, step)) for step in chosen]
    low, mean, high = zip(*rows, strict=True) if rows else ((), (), ())
    return Band(tuple(chosen), low, mean, high)


def _values_at(known: Sequence[Course], steps: Sequence[Sequence[float]], step: float) -> list[float]:
    """What each rank had last reported up to a step."""
    found = []
    for course, at in zip(known, steps, strict=True):
        index = bisect_right(at, step)
        if index and math.isfinite(value := course[index - 1][1]):
            found.append(value)
    return found


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    if not values:
        return math.nan, math.nan, math.nan
    return min(values), sum(values) / len(values), max(values)
