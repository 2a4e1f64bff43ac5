"""One execution of a cell on some ranks, as its client sees it: wait for it, read it, interrupt it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from modal_magic import protocol as p
from modal_magic.errors import RankFailed, RunInterrupted, SessionError, UsageError
from modal_magic.ranges import name_ranks
from modal_magic.view.failure import (
    cause_of,
    emptied,
    failure_lines,
    failure_sentence,
    strip_colours,
    whereabouts,
    why_killed,
)
from modal_magic.view.model import RankView, RunView
from modal_magic.view.snapshot import SessionFacts, Snapshot, where_it_runs
from modal_magic.view.status import seconds_in_words
from modal_magic.view.taking import snapshot
from modal_magic.view.text import TextView
from modal_magic.waits import stepwise, waited

if TYPE_CHECKING:
    from modal_magic.sessions.session import Session

__all__ = ["Run"]


REST_CHARACTERS = 20_000
"""While unfinished lines are longer than this in all, nobody is told at every turn how much was shown."""


UNREAD = 1000
"""So many words on bars and metrics wait for whoever follows the run; the view has all of them in any case."""


class Run:
    """One execution of a cell on some ranks: the handle that `Session.run` and `--background` give.

    It says how the run stands (`status`, `done`, its repr), what the ranks showed (`output`, `result`, `ranks`), and
    can `wait` for the run or `interrupt` it. None of that but `wait` waits.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.view = RunView(name)
        self._lock = threading.RLock()  # an interrupt may let go of the run while its own thread reads it
        self._fresh: list[tuple[int, p.Event | p.LiveEvent]] = []
        self._events: queue.SimpleQueue[list[tuple[int, p.Event | p.LiveEvent]]] = queue.SimpleQueue()
        self._over = threading.Event()
        self._lost: SessionError | None = None
        self._newest = self._told = self._shown = self._unread = 0
        self.interrupting = self.was_taken = False
        self.cell, self.old = 0, False  # of a run that this client found: its execution count, and whether it had ended

    @property
    def id(self) -> str:
        """The run's id, unique in its session."""
        return self.view.run

    @property
    def ranks(self) -> dict[int, RankView]:
        """What is known of the run on each of its ranks: `run.ranks[2].output`."""
        return self.view.ranks

    @property
    def status(self) -> str:
        """`queued`, `running`, `done`, `failed` or `interrupted`."""
        return self.view.status

    @property
    def done(self) -> bool:
        """Whether the run is over on every rank."""
        return self._over.is_set()

    @property
    def output(self) -> str:
        """All that the ranks have shown so far, as a notebook shows it: each line with its rank."""
        parts = TextView(self.session.world_size).turn(tuple(self.view.shown), last=True).parts
        texts = [
            str(part.data.get("text/plain", "")) + "\n" if isinstance(part, p.Display) else part[1] for part in parts
        ]
        return "".join(texts)

    @property
    def result(self) -> dict[int, str]:
        """The value of the cell's last expression as its text, by rank; ranks without one are left out."""
        with self.still() as view:
            values = {number: rank.result for number, rank in sorted(view.ranks.items())}
        return {number: value for number, value in values.items() if value is not None}

    def __dir__(self) -> list[str]:
        """What a notebook completes: the rest is for the session that has the run, and for views."""
        return ["done", "id", "interrupt", "output", "ranks", "result", "session", "status", "wait"]

    def __repr__(self) -> str:
        with self.still() as view:
            ranks = f" on {name_ranks(view.ranks)}" if view.ranks else ""
            why = f": {strip_colours(cause_of(view))}" if view.status == "failed" else ""
        took = f" after {seconds_in_words(self.view.seconds)}" if self.view.seconds is not None else ""
        attempt = f", attempt {self.view.attempt}" if self.view.attempt > 1 else ""
        return f"<run {self.id} of session {self.session.name!r}{ranks}: {self.status}{took}{attempt}{why}>"

    def wait(self, timeout: float | None = None) -> Self:
        """Wait for the end of the run, and return it.

        Raises RankFailed or RunInterrupted when that is how it ended, SessionClosed or GatewayLost when the session
        went away, and TimeoutError after `timeout` seconds, when the run simply goes on.
        """
        if not waited(self._over, timeout):
            raise TimeoutError(f"the run still goes on after {timeout:g} s")
        self.check()
        return self

    def check(self) -> None:
        """Raise what `wait` would raise of a run that is over."""
        self.taken()
        if self._lost is not None:
            raise self._lost
        if self.view.refusal:
            raise UsageError(self.view.refusal)
        if self.view.status == "failed":
            sentence = strip_colours(failure_sentence(self.view))
            raise RankFailed(sentence, self.view, tuple(failure_lines("RankFailed", self.view)))
        if self.view.status == "interrupted":
            raise RunInterrupted(self._interruption(), self.view)

    def interrupt(self) -> None:
        """Have all ranks leave the run. Asking twice does not make it worse."""
        self.interrupting = True
        self.session.interrupt_run(self)

    def wake(self) -> None:
        """Have a thread that waits in `events` look round. A signal handler may call this."""
        self._events.put([])

    def events(self, patience: float | None) -> list[p.Event | p.LiveEvent]:
        """The events since the last call: waits up to `patience` seconds for the first. For views."""
        found: list[p.Event | p.LiveEvent] = []
        self._unread = 0

        def take(seconds: float) -> bool:
            try:
                told = self._events.get(timeout=seconds)
            except queue.Empty:
                return False
            for number, event in told:
                self._told = max(self._told, number)
                found.append(event)
            return True

        if stepwise(take, patience):
            while not self._events.empty():
                take(0.0)
        return found

    def shown(self, rest: list[tuple[int, p.Stream, str]]) -> None:
        """All that `events` has returned was shown, but for these unfinished lines: rank, stream, text. For views.

        Another kernel that attaches later goes on from there.
        """
        if self._told > self._shown and sum(len(text) for *_, text in rest) <= REST_CHARACTERS:
            self._shown = self._told
            self.session.tell_shown(p.Shown(self.id, self._told, rest))

    def taken(self) -> None:
        """Whoever asked for the run has its end: no other kernel needs to show it."""
        self.was_taken = True
        if self._newest > self._shown:
            self._shown = self._newest
            self.session.tell_shown(p.Shown(self.id, self._newest, []))

    def snapshot(self) -> Snapshot:
        """The run as it is now, as data for those who draw it."""
        session, shape = self.session, self.session.shape
        where = where_it_runs(session.backend_name, shape.replicas, shape.nproc_per_node, shape.gpu)
        facts = SessionFacts(
            session=session.name,
            where=where,
            world_size=session.world_size,
            ranks_per_node=shape.nproc_per_node,
            state=session.state,
            stages=tuple(session.stages),
            cost=session.cost,
        )
        with self.still() as view:
            return snapshot(facts, view, session.now())

    @contextlib.contextmanager
    def still(self) -> Iterator[RunView]:
        """The view of the run, into which no event is taken meanwhile. For views."""
        with self._lock:
            yield self.view

    def settled(self, seconds: float) -> bool:
        """Wait for the end of the run, for so many seconds. Whether it is over."""
        return waited(self._over, seconds)

    def _interruption(self) -> str:
        why = f": {self.view.reason}" if self.view.reason else ""
        if not self.view.ranks:
            told = f"the run was taken out of the queue before it began{why}; nothing of it ran"
            if self.session.state == "launching":
                told += f". Session {self.session.name!r} goes on to start: %modal_stop ends it"
            return told
        places: dict[str, list[int]] = {}
        for rank in self.view.ranks.values():
            if rank.state == "interrupted":
                places.setdefault(rank.where, []).append(rank.rank)
        told = "; ".join(f"{name_ranks(ranks)} {whereabouts(place)}" for place, ranks in places.items())
        lost = [rank.rank for rank in self.view.ranks.values() if rank.lost]
        kept = (
            f"{name_ranks(lost)} had to be killed, and the variables there are lost: {why_killed(self.view)}"
            if lost
            else emptied(self.view)
            if self.view.emptied
            else "variables are kept on all ranks"
        )
        return f"the run was interrupted{why}{f' ({told})' if told else ''}; {kept}"

    # -- called by the session, in the thread of the links

    def take(self, event: p.Event | p.LiveEvent, at: float, sequence: int = 0, more: bool = False) -> None:
        """An event of the run, or the loss of a rank; when, by the session's clock; its record's number (0: none).

        Where there is `more`, `tell` follows: whoever waits for events is woken once for many.
        """
        with self._lock:
            self.view.apply(event, at)
            self._newest = max(self._newest, sequence)
            live = isinstance(event, p.LiveEvent)
            self._unread += live
            if not live or self._unread <= UNREAD:
                self._fresh.append((sequence, event))
        if not more:
            self.tell()

    def tell(self) -> None:
        """Hand what was taken to whoever follows the run."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
        if fresh or self._events.empty():  # one that nobody follows must not grow while it goes on
            self._events.put(fresh)
        if self.view.ended:
            self._over.set()

    def give_up(self, error: SessionError) -> None:
        """The session is gone before the run was over."""
        if not self._over.is_set():
            self._lost = error
            self.view.status, self.view.refusal = "failed", str(error)
            self.tell()

    def refuse(self, reason: str) -> None:
        """The gateway would not have the run."""
        self.view.refusal, self.view.status = reason, "failed"
        self.tell()
