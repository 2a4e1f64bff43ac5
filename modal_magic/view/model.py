"""From events to a snapshot of a run, pure: what every view draws and what the Python API returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from modal_magic import protocol as p

__all__ = ["RankView", "RunView"]


@dataclass(slots=True)
class RankView:
    """A run on one rank. `exit_code` is set where `sys.exit` ended the cell; `seconds` once the rank is done.

    `lost` says how its process ended during the run; its variables are gone then, however the cell had ended there.
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

    def begin_again(self) -> None:
        """The run is tried again: forget how the rank ended, and keep what it showed."""
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
    failing: list[int] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether the run is over on every rank."""
        return self.status not in ("queued", "running")

    def rank(self, number: int) -> RankView:
        """The view of one rank, made where it is new."""
        return self.ranks.setdefault(number, RankView(number))

    def apply(self, event: p.Event) -> None:
        """Take in an event of the session; those of other runs change nothing."""
        if isinstance(event, p.Lost):
            if self.status == "running" and event.rank in self.ranks:
                self._lose_rank(event)
            return
        if getattr(event, "run", None) != self.run:
            return
        match event:
            case p.RunQueued(position=position):
                self.position = position
            case p.Submitted(ranks=ranks, source=source):
                self.status, self.source = "running", source
                for number in ranks:
                    self.rank(number)
            case p.Started(rank=number):
                self.rank(number).state = "running"
            case p.Output(rank=number):
                self.rank(number).chunks.append(event)
                self.shown.append(event)
            case p.Display(rank=number):
                self.rank(number).displays.append(event)
                self.shown.append(event)
            case p.Finished() | p.Failed() | p.Interrupted():
                self._end_rank(event)
            case p.RunRetried(attempt=attempt):
                self.status, self.attempt = "queued", attempt
                self.failing.clear()
                for rank in self.ranks.values():
                    rank.begin_again()
            case p.RunEnded():
                self.status, self.culprits, self.reason = event.status, tuple(event.culprits), event.reason
                self.seconds, self.withheld = event.seconds, event.withheld

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
                rank.state, rank.error = "failed", event.error
                self.failing.append(event.rank)
            case p.Interrupted():
                rank.state, rank.where = "interrupted", event.where
