"""A model of kernels: what `session.py` does with a link."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.session import LOST_SECONDS
from modal_magic.view.model import RunView
from tests.simulation.world import Violation, Wire, World

__all__ = ["Client"]


class Client:
    """An attached kernel: its runs as their views show them, and every record it has had."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.identity = name.encode()
        self.wire: Wire | None = None
        self.heard = world.now
        self.silent = False
        self.attached = False
        self.closed: str | None = None
        self.seen = 0
        self.state = "launching"
        self.views: dict[str, RunView] = {}
        self.ended_at: dict[str, float] = {}
        self.records: list[p.Record] = []
        self.texts: dict[tuple[str, int], list[str]] = {}
        self.done: set[str] = set()

    def send(self, request: p.Request) -> None:
        """Ask for something."""
        if self.closed is None and self.wire is not None:
            self.world.note(self.name, f"▶ {request}")
            self.wire.up([p.encode(request)])

    def attach(self) -> None:
        """The first word, also of one that comes back."""
        self.send(p.Attach(p.VERSION, self.name, self.seen))

    def run(self, task: p.Execute, ranks: list[int] | None) -> None:
        """Have a cell run."""
        self.views[task.run] = RunView(task.run)
        self.send(p.Run(task, ranks, None))

    def beat(self) -> None:
        """Four times a second."""
        if self.closed is not None or self.wire is None:
            return
        silence = self.world.now - self.heard
        if silence > LOST_SECONDS:
            self.close("the gateway does not answer any more")
        elif silence > p.SILENCE_SECONDS and not self.silent and self.attached:
            self.silent = True
            self.attach()

    def take(self, frames: list[bytes]) -> None:
        """The gateway says something."""
        self.heard, self.silent = self.world.now, False
        if self.closed is not None:
            return
        if frames[0] == p.RECORDS:
            for record in p.decode_records(frames[1]):
                self.on_record(record)
            return
        match p.decode_reply(frames[0]):
            case p.Attached():
                self.attached = True
            case p.Refused(request="", reason=_):
                self.attach()
            case p.Refused(request=request, reason=reason) if request in self.views:
                self.views[request].refusal, self.views[request].status = reason, "failed"
            case p.Refused(request=request) | p.Done(request=request):
                self.done.add(request)
            case p.Closed(reason=reason):
                self.close(reason)

    def on_record(self, record: p.Record) -> None:
        """One event of the session."""
        if record.sequence <= self.seen:
            return
        if record.sequence != self.seen + 1:
            raise Violation(f"{self.name} has had record {self.seen} and is sent {record.sequence}")
        self.seen = record.sequence
        event = record.event
        self.records.append(record)
        match event:
            case p.SessionChanged(state=state, reason=reason):
                self.state = state
                if state == "closing":
                    self.close(reason)
            case p.Output(rank=rank, run=run, text=text):
                self.texts.setdefault((run, rank), []).append(text)
        for name, view in self.views.items():
            if not view.ended:
                view.apply(event)
                if view.ended:
                    self.ended_at[name] = self.world.now

    def close(self, reason: str) -> None:
        """The session is gone, as far as this client knows."""
        if self.closed is None:
            self.closed = reason
            self.world.note(self.name, f"   knows that the session is closed: {reason}")
            for name, view in self.views.items():
                if not view.ended:
                    view.status = "failed"
                    self.ended_at[name] = self.world.now
