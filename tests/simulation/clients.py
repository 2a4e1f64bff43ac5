"""A model of kernels: what `links/client.py` and `sessions/session.py` do with a link, round the real conversation."""

from __future__ import annotations

from collections.abc import Callable

from modal_magic import protocol as p
from modal_magic.links.conversation import Conversation
from modal_magic.view.model import RunView
from tests.simulation.schedule import Cell
from tests.simulation.world import Violation, Wire, World

__all__ = ["Client"]


class Client:
    """An attached kernel: its runs as their views show them, and every record it has had.

    `lives` says whether the process of the gateway is there.
    """

    def __init__(self, world: World, name: str, lives: Callable[[], bool]) -> None:
        self.world, self.name, self.lives = world, name, lives
        self.identity = name.encode()
        self.wire: Wire | None = None
        self.heard = world.now
        self.silent = False
        self.attached = False
        self.closed: str | None = None
        self.conversation = Conversation(name, self.transmit, self.on_record, self.on_reply)
        self.newest = 0
        self.state = "launching"
        self.views: dict[str, RunView] = {}
        self.ended_at: dict[str, float] = {}
        self.records: list[p.Record] = []
        self.texts: dict[tuple[str, int], list[str]] = {}
        self.done: set[str] = set()

    def transmit(self, frames: list[bytes]) -> None:
        """Put a message on the wire."""
        if self.closed is None and self.wire is not None:
            if self.world.trace is not None:
                self.world.note(self.name, "▶", p.decode_request(frames[-1]))
            self.wire.up(frames)

    def send(self, request: p.Numbered) -> None:
        """Ask for something."""
        if self.closed is None:
            self.conversation.ask(request, self.world.now)

    def attach(self) -> None:
        """The first word, also of one that comes back."""
        self.conversation.attach(self.world.now)

    def detach(self) -> None:
        """The last word."""
        self.transmit([p.encode(p.Detach())])

    def run(self, cell: Cell) -> None:
        """Have a cell run."""
        self.views[cell.run] = RunView(cell.run)
        ranks = None if cell.ranks is None else list(cell.ranks)
        self.send(p.Run(p.Execute(cell.run, "cell", 1, 1), ranks, None, cell.timeout, cell.retries))

    def beat(self) -> None:
        """Four times a second."""
        if self.closed is not None or self.wire is None:
            return
        silent = self.world.now - self.heard > p.SILENCE_SECONDS
        if silent and not self.lives():
            self.close("the gateway is gone")
        elif silent and not self.silent and self.attached:
            self.silent = True
            self.attach()

    def take(self, frames: list[bytes]) -> None:
        """The gateway says something."""
        self.heard, self.silent = self.world.now, False
        if self.closed is None:
            self.conversation.take(frames, self.world.now)

    def on_reply(self, reply: p.Reply) -> None:
        """An answer to a request, or the last word of the gateway."""
        match reply:
            case p.Attached(sequence=sequence):
                self.attached, self.newest = True, sequence
            case p.Refused(request=request, reason=reason) if request in self.views:
                self.views[request].refusal, self.views[request].status = reason, "failed"
            case p.Refused(request=request) | p.Done(request=request):
                self.done.add(request)
            case p.Closed(reason=reason):
                self.close(reason)

    def on_record(self, record: p.Record) -> None:
        """One event of the session."""
        if record.sequence <= self.newest:
            raise Violation(f"{self.name} has had record {self.newest} and is sent {record.sequence}")
        self.newest = record.sequence
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
