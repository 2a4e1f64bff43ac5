"""The course of a number over its steps, in a bounded number of points: what a chart or a sparkline draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["POINTS", "Series"]

POINTS = 96
"""A series never has more points. When it would, every second one goes and only every second new one is kept."""


@dataclass(slots=True)
class Series:
    """Values at their steps, and the newest whether it was kept or not. `offered` counts those since the last kept."""

    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    stride: int = 1
    offered: int = 0
    last: tuple[float, float] | None = None

    def add(self, step: float, value: float) -> None:
        """Take a value in."""
        self.last = step, value
        if self.steps:
            self.offered += 1
            if self.offered < self.stride:
                return
        self.offered = 0
        self.steps.append(step)
        self.values.append(value)
        if len(self.steps) > POINTS:
            del self.steps[1::2], self.values[1::2]
            self.stride *= 2

    def replace(self, steps: Sequence[float], values: Sequence[float], stride: int) -> None:
        """Become what another process has gathered of the same number."""
        self.steps, self.values, self.stride, self.offered = list(steps), list(values), stride, 0
        if self.steps and self.last is None:
            self.last = self.steps[-1], self.values[-1]

    def points(self) -> list[tuple[float, float]]:
        """Step and value, oldest first, the newest always among them."""
        kept = list(zip(self.steps, self.values, strict=True))
        return kept if self.last is None or (kept and kept[-1] == self.last) else [*kept, self.last]
