"""What changes too often for the log: the newest of every bar and metric, and what a newcomer must be told. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.series import Series

__all__ = ["BARS", "CURVES", "Gauges", "LiveTable"]

CURVES = 100
"""Of one rank so many metrics are kept; those with further names are not."""
BARS = 100
"""Of one rank so many bars are kept: the newest."""


@dataclass(slots=True)
class Gauges:
    """The bars of one rank by their number, its metrics by their name, and what it used last."""

    bars: dict[int, p.Progress] = field(default_factory=dict)
    curves: dict[str, Series] = field(default_factory=dict)
    usage: p.Usage | None = None

    def take(self, event: p.LiveEvent) -> bool:
        """Take a word of the rank, or what another process has gathered of it. False for one metric too many."""
        if isinstance(event, p.Metric | p.Curve) and event.name not in self.curves and len(self.curves) >= CURVES:
            return False
        match event:
            case p.Progress():
                if event.bar not in self.bars:  # a loop that is over is shown until another begins
                    for number in [number for number, bar in self.bars.items() if bar.ended]:
                        del self.bars[number]
                    if len(self.bars) >= BARS:  # a loop that is left early never says that it is over
                        del self.bars[next(iter(self.bars))]
                self.bars[event.bar] = event
            case p.Usage():
                self.usage = event
            case p.Metric():
                self.curves.setdefault(event.name, Series()).add(event.step, event.value)
            case p.Curve():
                self.curves.setdefault(event.name, Series()).replace(event.steps, event.values, event.stride)
        return True


@dataclass(slots=True)
class LiveTable:
    """What the ranks of a run have told. A later word on a bar takes the place of an earlier one; metrics add up."""

    run: str = ""
    ranks: dict[int, Gauges] = field(default_factory=dict)
    moved: dict[tuple[int, int], p.Progress] = field(default_factory=dict)
    measured: list[p.Metric] = field(default_factory=list)
    used: dict[int, p.Usage] = field(default_factory=dict)

    def take(self, event: p.Progress | p.Metric | p.Usage) -> bool:
        """Take a word of a rank. That of another run than the last begins the table anew. False: see `Gauges`."""
        if event.run != self.run:
            self.run = event.run
            self.ranks.clear()
            self.moved.clear()
            self.measured.clear()
            self.used.clear()
        if not self.ranks.setdefault(event.rank, Gauges()).take(event):
            return False
        if isinstance(event, p.Progress):
            self.moved[event.rank, event.bar] = event
        elif isinstance(event, p.Usage):
            self.used[event.rank] = event
        else:
            self.measured.append(event)
        return True

    def seen(self, rank: int, run: str | None) -> tuple[int, str, int | None, int | None]:
        """Where a rank of this run was last seen, and what it used: line, function, CPU, memory."""
        usage = self.ranks[rank].usage if run is not None and run == self.run and rank in self.ranks else None
        if usage is None:
            return 0, "", None, None
        where = usage.where or p.Whereabouts()
        return where.line, where.function, usage.cpu, usage.memory

    def news(self) -> list[p.LiveEvent]:
        """What has changed since the last call."""
        found: list[p.LiveEvent] = [*self.moved.values(), *self.measured, *self.used.values()]
        self.moved.clear()
        self.used.clear()
        self.measured.clear()
        return found

    def all(self) -> list[p.LiveEvent]:
        """All that a newcomer must be told."""
        found: list[p.LiveEvent] = []
        for rank, gauges in self.ranks.items():
            found += gauges.bars.values()
            if gauges.usage is not None:
                found.append(gauges.usage)
            for name, series in gauges.curves.items():
                found.append(p.Curve(rank, self.run, name, series.steps, series.values, series.stride))
                if series.last is not None and series.last != (series.steps[-1], series.values[-1]):
                    found.append(p.Metric(rank, self.run, name, series.last[1], series.last[0]))
        return found
