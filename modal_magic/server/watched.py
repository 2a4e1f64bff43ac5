"""One session as a server sees it: its events folded into snapshots, its output kept in lines."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid

from modal_magic import protocol as p
from modal_magic.errors import ModalMagicError, SessionError, UsageError
from modal_magic.links.client import Client
from modal_magic.links.thread import LinkThread
from modal_magic.prices import Rates, cost_of, rates_on
from modal_magic.registry import Connection, read
from modal_magic.view.band import Band, band
from modal_magic.view.model import RunView
from modal_magic.view.newest import LogLine, NewestLines
from modal_magic.view.snapshot import SessionFacts, Snapshot, where_it_runs
from modal_magic.view.stack import SHOWN_FRAMES
from modal_magic.view.taking import snapshot

__all__ = ["RESTART_SECONDS", "STACK_SECONDS", "Watched"]

STACK_SECONDS = 1.0
"""How long a gateway has to say where its ranks are; it waits for them for less."""
RESTART_SECONDS = 20.0
"""How long somebody who has ranks started anew waits to hear that they are there."""


class Watched:
    """A session that is watched. What comes is taken in the thread of the links; the rest may be called in any.

    A class because a link must be closed. `attach` must be called before anything else.
    """

    def __init__(self, links: LinkThread, connection: Connection) -> None:
        self.connection = connection
        self.ended = ""
        self.dirty = True
        self.silent = False
        self._lock = threading.Lock()
        self._run: RunView | None = None
        self._status: p.Status | None = None
        self._state = "launching"
        self._state_since = time.time()
        self._ahead: float | None = None
        self._lines = NewestLines()
        self._stages: dict[tuple[str, int], p.Stage] = {}
        self._rates: Rates | None = None
        with contextlib.suppress(UsageError):  # the kernel has told of prices that cannot be read
            self._rates = rates_on(connection.backend, connection.gpu, connection.containers)
        self._stacks: dict[str, list[p.RankStack] | None] = {}
        self._answers: dict[str, str | None] = {}
        self._client = Client(
            links, connection, self._on_record, self._on_reply, self._on_silence, self._on_end, watches=True
        )

    def attach(self) -> None:
        """Wait for the gateway. Raises SessionError when it cannot be had."""
        self._client.attach()

    def follow(self) -> None:
        """Go where a gateway elsewhere is reached now, if it is silent: its bridge may have begun at another port."""
        if self.silent and not self.connection.born:
            with contextlib.suppress(ModalMagicError, OSError):
                found = read(self.connection.session)
                if (found.host, found.port) != (self.connection.host, self.connection.port):
                    self.connection = found
                    self._client.move(found)

    def close(self) -> None:
        """Let go of the session, which lives on."""
        self._client.close(p.Detach())

    # -- what is asked

    def snapshot(self) -> Snapshot:
        """The session as it is now."""
        with self._lock:
            self.dirty = False
            connection, status = self.connection, self._status
            ranks = status.ranks if status is not None else []
            stages = tuple(sorted(self._stages.values(), key=lambda stage: stage.began))
            facts = SessionFacts(
                session=connection.session,
                where=where_it_runs(connection.backend, connection.nodes, connection.ranks_per_node, connection.gpu),
                world_size=connection.nodes * connection.ranks_per_node,
                ranks_per_node=connection.ranks_per_node,
                state=self.ended or self._state,
                pids=tuple(rank.pid for rank in ranks),
                states=tuple(rank.state for rank in ranks),
                states_since=self._state_since,
                kernels=status.clients if status is not None else 1,
                lease=status.lease if status is not None else 0.0,
                lease_left=status.lease_left if status is not None else None,
                stages=stages,
                cost=cost_of(self._rates, stages, self._now()) if self._rates is not None else None,
            )
            return snapshot(facts, self._run, self._now())

    @property
    def running(self) -> bool:
        """Whether a run is in progress."""
        return self._run is not None and not self._run.ended

    def log(self, rank: int | None, after: int) -> tuple[list[LogLine], int]:
        """The lines of the newest run after number `after`, of a rank or of all (None), and how many there were."""
        with self._lock:
            return self._lines.after(after, rank), self._lines.total(rank)

    def band(self, metric: str) -> Band:
        """The course of a metric on all ranks of the newest run."""
        with self._lock:
            ranks = list(self._run.ranks.values()) if self._run is not None else []
            courses = [rank.gauges.curves[metric].points() for rank in ranks if metric in rank.gauges.curves]
        return band(courses)

    def ask_status(self) -> None:
        """Have the gateway say how the session is."""
        self._client.ask(p.AskStatus(uuid.uuid4().hex[:12]))

    def interrupt(self) -> bool:
        """Have the ranks leave the run in progress. Whether there is one."""
        run = self._run
        if run is None or run.ended:
            return False
        self._client.ask(p.InterruptRun(run.run))
        return True

    def restart(self, rank: int | None) -> str:
        """Have a rank (None: all) started anew, empty. Returns the name of the request, for `answer`."""
        name = uuid.uuid4().hex[:12]
        self._answers[name] = None
        self._client.ask(p.Restart(name, None if rank is None else [rank]))
        return name

    def answer(self, name: str) -> str | None:
        """Why a request was refused, empty where it was carried out; None before it is known."""
        return self._answers[name]

    def forget_answer(self, name: str) -> None:
        """Nobody waits for it more."""
        del self._answers[name]

    def stop(self) -> None:
        """End the session."""
        self._client.ask(p.Stop("it was stopped from the panel"))

    def ask_stacks(self) -> str:
        """Have ranks say where they are. Returns the name of the question, for `stacks`."""
        name = uuid.uuid4().hex[:12]
        self._stacks[name] = None
        self._client.ask(p.AskStack(name, SHOWN_FRAMES))
        return name

    def stacks(self, name: str) -> list[p.RankStack] | None:
        """The answer, None before it has come."""
        return self._stacks[name]

    def forget_stacks(self, name: str) -> None:
        """Nobody waits for more answers."""
        del self._stacks[name]

    # -- in the thread of the links

    def _now(self) -> float:
        return time.time() - (self._ahead or 0.0)

    def _on_record(self, record: p.Record) -> None:
        event, late = record.event, time.time() - record.time
        with self._lock:
            self._ahead = late if self._ahead is None else min(self._ahead, late)
            self.dirty = True
            match event:
                case p.Submitted(run=run) if self._run is None or self._run.run != run:
                    self._begin(run)
                case p.SessionChanged(state=state):
                    self._state, self._state_since = state, record.time
                case p.Staged(stage=stage):
                    self._stages[stage.name, stage.node] = stage
                case p.Output() if self._run is not None and event.run == self._run.run:
                    self._lines.take(record.time - self._run.began, event.rank, event.stream, event.text)
                case p.RunEnded() if self._run is not None:
                    self._lines.end(record.time - self._run.began)
            if self._run is not None:
                self._run.apply(event, record.time)

    def _begin(self, run: str) -> None:
        self._run = RunView(run, keep=False)
        self._lines = NewestLines()

    def _on_reply(self, reply: p.Reply) -> None:
        with self._lock:
            match reply:
                case p.Attached(state=state, stages=stages):
                    self._state = state
                    self._stages = {(stage.name, stage.node): stage for stage in stages}
                case p.Status():
                    # What changes all the time must not make a session look changed.
                    self.dirty = self.dirty or self._status is None or _told(self._status) != _told(reply)
                    self._status = reply
                case p.Stacks(request=request, ranks=ranks) if request in self._stacks:
                    self._stacks[request] = ranks
                case p.Done(request=request) if request in self._answers:
                    self._answers[request] = ""
                case p.Refused(request=request, reason=reason) if request in self._answers:
                    self._answers[request] = reason
                case p.Live(events=events):
                    for event in events:
                        if self._run is not None:
                            self._run.apply(event, self._now())
                    self.dirty = self.dirty or bool(events)
                case p.Closed():
                    self.ended = "closed"

    def _on_silence(self, silent: bool) -> None:
        self.silent = silent

    def _on_end(self, error: SessionError) -> None:
        self.ended = "lost"


def _told(status: p.Status) -> tuple[object, ...]:
    return status.state, status.ranks, status.clients, status.lease_left is None
