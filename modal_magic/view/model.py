"""From events to a snapshot of a run, pure: what every view draws and what the Python API returns."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.live import Gauges

__all__ = ["RankView", "RunView", "last_line"]


LINE_CHARACTERS = 200
"""So much of its last line a view shows of a rank."""
_ESCAPE = r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.?)"
_CONTROL = re.compile(_ESCAPE + r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]", re.DOTALL)


def last_line(text: str) -> str:
    """The start of the last line of a text that shows anything, without colours and other control characters."""
    end = len(text.rstrip())
    start = max(text.rfind("\n", 0, end), text.rfind("\r", 0, end)) + 1
    return _CONTROL.sub("", text[start : min(end, start + 4 * LINE_CHARACTERS)])[:LINE_CHARACTERS]


@dataclass(slots=True)
class RankView:
    """A run on one rank. `exit_code` is set where `sys.exit` ended the cell; `seconds` once the rank is done.

    `lost` says how its process ended during the run; its variables are gone then, however the cell had ended there.
    `since` is when the rank came into its state, and `moved` when it last told of its progress, by the clock of the
    session in seconds since 1970; at `sampled` it was seen where its gauges say. `last_line` is the start of the last
    line that it wrote.
    """

    rank: int
    state: str = "queued"
    seconds: float | None = None
    exit_code: int | None = None
    error: p.RemoteError | None = None
    lost: str = ""
    replaced: bool = True
    where: str = ""
    displays: list[p.Display] = field(default_factory=list)
    chunks: list[p.Output] = field(default_factory=list)
    since: float = 0.0
    moved: float = 0.0
    sampled: float = 0.0
    last_line: str = ""
    gauges: Gauges = field(default_factory=Gauges)

    def begin_again(self) -> None:
        """The run is tried again: forget how the rank ended, and keep what it showed."""
        self.gauges = Gauges()
        self.state, self.seconds, self.exit_code, self.error = "queued", None, None, None
        self.lost, self.replaced, self.where = "", True, ""

    @property
    def output(self) -> str:
        """All that the rank wrote to stdout and stderr, as far as it was sent here (`--output-limit`)."""
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def stdout(self) -> str:
        """What the rank wrote to stdout."""
        return "".join(chunk.text for chunk in self.chunks if chunk.stream == "stdout")

    @property
    def stderr(self) -> str:
        """What the rank wrote to stderr."""
        return "".join(chunk.text for chunk in self.chunks if chunk.stream == "stderr")

    @property
    def result(self) -> str | None:
        """The value of the cell's last expression as its text, None where there was none."""
        values = [shown.data.get("text/plain") for shown in self.displays if shown.kind == "result"]
        return str(values[-1]) if values else None


@dataclass(slots=True)
class RunView:
    """A run, folded from its events by `apply`. `status` is queued, running, or one of `RunEnded`'s.

    `attempt` counts from 1, and rises where a run is tried again; `shown` has what all ranks showed, as it came.
    `emptied` are the ranks that died in an earlier attempt or after it, and have lost their variables.
    `began` is when it was sent to its ranks. With `keep` false no output is held: for those who draw and do not read.
    """

    run: str
    status: str = "queued"
    attempt: int = 1
    reason: str = ""
    shown: list[p.Output | p.Display] = field(default_factory=list)
    position: int = 0
    ranks: dict[int, RankView] = field(default_factory=dict)
    culprits: tuple[int, ...] = ()
    seconds: float | None = None
    withheld: int = 0
    refusal: str = ""
    source: str = ""
    cell: int = 0
    began: float = 0.0
    keep: bool = True
    failing: list[int] = field(default_factory=list)
    emptied: set[int] = field(default_factory=set)
    stall: p.Stalled | None = None
    awaited_since: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether the run is over on every rank."""
        return self.status not in ("queued", "running")

    def rank(self, number: int) -> RankView:
        """The view of one rank, made where it is new."""
        view = self.ranks.get(number)
        if view is None:
            view = self.ranks[number] = RankView(number)
        return view

    def apply(self, event: p.Event | p.LiveEvent, at: float = 0.0) -> None:
        """Take in an event of the session, and when it was; those of other runs change nothing."""
        if isinstance(event, p.Lost):
            if self.status == "running" and event.rank in self.ranks:
                self._lose_rank(event)
                self.ranks[event.rank].since = at
            elif self.status == "queued" and event.rank in self.ranks:
                self.emptied.add(event.rank)
            return
        if getattr(event, "run", None) != self.run:
            return
        match event:
            case p.RunQueued(position=position):
                self.position = position
            case p.Submitted(ranks=ranks, source=source):
                self.status, self.source, self.cell, self.began = "running", source, event.cell, at
                for number in ranks:
                    self.rank(number).since = at
            case p.Started(rank=number):
                self.rank(number).state = "running"
                self.rank(number).since = at
            case p.Output(rank=number):
                rank = self.rank(number)
                rank.last_line = last_line(event.text) or rank.last_line
                if self.keep:
                    rank.chunks.append(event)
                    self.shown.append(event)
            case p.Display(rank=number) if self.keep:
                self.rank(number).displays.append(event)
                self.shown.append(event)
            case p.Stalled():
                self.stall = event
                seconds = [stack.where.since for stack in event.waiting if stack.where is not None]
                self.awaited_since = round(at - max(seconds, default=0.0), 1)
            case p.Usage():
                self.rank(event.rank).gauges.take(event)
                self.rank(event.rank).sampled = at
            case p.Progress() | p.Metric() | p.Curve():
                if self.stall is not None and any(stack.rank == event.rank for stack in self.stall.waiting):
                    self.stall = None  # a rank that waited has moved on
                self.rank(event.rank).gauges.take(event)
                self.rank(event.rank).moved = max(at, self.rank(event.rank).moved)
            case p.Finished() | p.Failed() | p.Interrupted():
                self.rank(event.rank).since = at
                self._end_rank(event)
            case p.RunRetried(attempt=attempt):
                self.status, self.attempt = "queued", attempt
                self.failing.clear()
                self.emptied.update(rank.rank for rank in self.ranks.values() if rank.lost)
                for rank in self.ranks.values():
                    rank.begin_again()
            case p.RunEnded():
                self.stall = None
                self.status, self.culprits, self.reason = event.status, tuple(event.culprits), event.reason
                self.seconds, self.withheld = event.seconds, event.withheld
                if event.status == "failed":
                    self.refusal = event.reason

    def _lose_rank(self, event: p.Lost) -> None:
        rank = self.ranks[event.rank]
        rank.lost, rank.replaced = event.cause, event.replaced
        if rank.state in ("queued", "running"):  # one that had come to its end keeps that, but no variables
            rank.state = "lost"
            self.failing.append(event.rank)

    def _end_rank(self, event: p.Finished | p.Failed | p.Interrupted) -> None:
        rank = self.rank(event.rank)
        rank.seconds = event.seconds
        match event:
            case p.Finished():
                rank.state, rank.exit_code = "done", event.exit_code
            case p.Failed():
                rank.state, rank.error, rank.exit_code = "failed", event.error, event.exit_code
                self.failing.append(event.rank)
            case p.Interrupted():
                rank.state, rank.where = "interrupted", event.where
