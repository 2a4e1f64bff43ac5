"""The session's state machine, pure: stimuli in, effects out; no clock, no socket, no thread.

The tables say what a rank and a session may do next; the diagrams in docs/states.md are made from them. Everything else
here answers three questions: when is a run over, who failed first, and when must the process group be built anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from modal_magic import protocol as p
from modal_magic.ranges import format_ranks, name_ranks
from modal_magic.topology import Meeting, Topology, place

VERDICT_SECONDS = 0.15
"""How long the verdict on a failure waits: peers' connection errors can arrive before their cause."""
CLOSING_SECONDS = 5.0
"""How long nodes have to end their workers before the gateway leaves without them."""
GROUP_SECONDS = 120.0
"""How long ranks have to form a process group before those that are missing are started anew."""
ATTEMPTS = 3
"""How often a rank or a group is tried in a row before the session goes on without it."""


class RankState(StrEnum):
    """The states of a rank; design words, shown in capitals in logs."""

    LAUNCHING = "launching"
    RENDEZVOUS = "rendezvous"
    IDLE = "idle"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    LOST = "lost"


class SessionState(StrEnum):
    """The states of a session."""

    LAUNCHING = "launching"
    READY = "ready"
    RUNNING = "running"
    RECOVERING = "recovering"
    DEGRADED = "degraded"
    CLOSING = "closing"
    CLOSED = "closed"


R, S = RankState, SessionState

FREE = frozenset({R.IDLE, R.DONE, R.FAILED, R.INTERRUPTED})
"""A rank in one of these can be given a cell."""
BUSY = frozenset({R.QUEUED, R.RUNNING})
"""A rank in one of these owes the end of a run."""

RANK_TABLE: Mapping[tuple[RankState, type[p.Message]], RankState] = MappingProxyType(
    {
        (R.LAUNCHING, p.Launched): R.RENDEZVOUS,
        (R.RENDEZVOUS, p.Grouped): R.IDLE,
        (R.RENDEZVOUS, p.GroupFailed): R.RENDEZVOUS,
        **{(state, p.Regroup): R.RENDEZVOUS for state in (*FREE, R.RENDEZVOUS)},
        **{(state, p.Submitted): R.QUEUED for state in FREE},
        (R.QUEUED, p.Started): R.RUNNING,
        (R.QUEUED, p.Interrupted): R.INTERRUPTED,
        (R.RUNNING, p.Finished): R.DONE,
        (R.RUNNING, p.Failed): R.FAILED,
        (R.RUNNING, p.Interrupted): R.INTERRUPTED,
        **{(state, p.Lost): R.LOST for state in RankState if state is not R.LOST},
        (R.LOST, p.Launch): R.LAUNCHING,
    }
)

SESSION_TABLE: Mapping[SessionState, frozenset[SessionState]] = MappingProxyType(
    {
        S.LAUNCHING: frozenset({S.READY, S.DEGRADED, S.CLOSING, S.CLOSED}),
        S.READY: frozenset({S.RUNNING, S.RECOVERING, S.DEGRADED, S.CLOSING, S.CLOSED}),
        S.RUNNING: frozenset({S.READY, S.RECOVERING, S.DEGRADED, S.CLOSING, S.CLOSED}),
        S.RECOVERING: frozenset({S.READY, S.DEGRADED, S.CLOSING, S.CLOSED}),
        S.DEGRADED: frozenset({S.RUNNING, S.RECOVERING, S.CLOSING, S.CLOSED}),
        S.CLOSING: frozenset({S.CLOSED}),
        S.CLOSED: frozenset(),
    }
)


class UnexpectedEvent(Exception):
    """An event that the tables do not allow; the text holds the last events of that rank."""


# ---- stimuli that are not events of ranks ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """An agent has said its first word."""

    node_rank: int
    address: str
    port: int
    accelerators: int
    cores: int


@dataclass(frozen=True, slots=True)
class NodeGone:
    """An agent has left or fallen silent; `cause` is a phrase as in `Lost`."""

    node_rank: int
    cause: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A client asked for something."""

    client: bytes
    request: p.Run | p.InterruptRun | p.Restart | p.Stop


@dataclass(frozen=True, slots=True)
class Attendance:
    """So many clients are attached."""

    clients: int


@dataclass(frozen=True, slots=True)
class Fired:
    """A timer has run out."""

    timer: str


Stimulus = NodeJoined | NodeGone | Asked | Attendance | Fired | p.RankEvent

# ---- effects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tell:
    """Send an order to a node."""

    node_rank: int
    order: p.Order


@dataclass(frozen=True, slots=True)
class Log:
    """Append an event to the log, and so send it to every client."""

    event: p.Event


@dataclass(frozen=True, slots=True)
class Answer:
    """Send a reply to one client."""

    client: bytes
    reply: p.Reply


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Fire a timer of this name once, after so many seconds; None takes it back."""

    timer: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class End:
    """Leave: the session is closed."""

    reason: str


Effect = Tell | Log | Answer | SetTimer | End

# ---- the machine -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """What a session was asked to be; `accelerated` says that its ranks were asked to have GPUs."""

    topology: Topology
    grouped: bool
    accelerated: bool
    i6pn: bool
    environment: Mapping[str, str]
    store: p.Store | None
    lease: float


@dataclass(slots=True)
class Rank:
    """What the machine knows of one rank."""

    state: RankState = R.LAUNCHING
    pid: int = 0
    device: str = ""
    attempts: int = 0
    history: deque[str] = field(default_factory=lambda: deque(maxlen=8))


@dataclass(slots=True)
class ActiveRun:
    """The run that is going on: who still owes an end, and what has gone wrong in the order of its arrival."""

    run: str
    ranks: tuple[int, ...]
    pending: set[int]
    failures: list[tuple[int, int]] = field(default_factory=list)
    health: dict[int, p.Health] = field(default_factory=dict)
    interrupted: bool = False
    released: bool = False


LOST, EXCEPTION, COMMUNICATION = range(3)
"""Kinds of failure, the most telling first."""


class Machine:
    """The truth about one session. `handle` takes what happened and returns what must be done, in order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.state = S.LAUNCHING
        self.generation = 1
        self.ranks = [Rank() for _ in range(plan.topology.world_size)]
        self.nodes: dict[int, NodeJoined] = {}
        self.gone: set[int] = set()
        self.active: ActiveRun | None = None
        self.queue: deque[tuple[bytes, p.Run]] = deque()
        self.restarts: list[tuple[bytes, str]] = []
        self.restarting: set[int] = set()
        self.clients = 0
        self.group_attempts = 0
        self.meeting = Meeting("", 0, plan.i6pn)
        self._lease_runs = False
        self._effects: list[Effect] = []

    def handle(self, stimulus: Stimulus) -> list[Effect]:
        """Take one stimulus. Raises UnexpectedEvent, with nothing changed, for an event that the tables forbid."""
        self._effects = []
        _HANDLERS[type(stimulus)](self, stimulus)
        if self.state not in (S.CLOSING, S.CLOSED):
            self._settle()
        return self._effects

    # -- small tools

    def _do(self, *effects: Effect) -> None:
        self._effects.extend(effects)

    def _enter(self, state: SessionState, reason: str = "") -> None:
        if state is self.state:
            return
        if state not in SESSION_TABLE[self.state]:
            raise UnexpectedEvent(f"a session cannot go from {self.state} to {state}")
        self.state = state
        self._do(Log(p.SessionChanged(state, self.generation, reason)))

    def _advance(self, number: int, event: p.Message, kind: type[p.Message] | None = None) -> Rank:
        rank = self.ranks[number]
        kind = kind or type(event)
        after = RANK_TABLE.get((rank.state, kind))
        if after is None:
            history = ", ".join(rank.history) or "nothing"
            raise UnexpectedEvent(f"rank {number} is {rank.state} and cannot take {kind.__name__}; before: {history}")
        rank.history.append(kind.__name__)
        rank.state = after
        return rank

    def _tell_ranks(self, ranks: Iterable[int], order: Callable[..., p.Order], *rest: object) -> None:
        by_node: dict[int, list[int]] = {}
        for rank in ranks:
            by_node.setdefault(self.plan.topology.node_of(rank), []).append(rank)
        for node_rank, numbers in by_node.items():
            if node_rank in self.nodes:
                self._do(Tell(node_rank, order(numbers, *rest)))

    def _launch(self, ranks: Iterable[int]) -> None:
        by_node: dict[int, list[p.Place]] = {}
        for rank in ranks:
            node = self.nodes[self.plan.topology.node_of(rank)]
            accelerated = self.plan.accelerated and node.accelerators >= self.plan.topology.ranks_per_node
            by_node.setdefault(node.node_rank, []).append(
                place(self.plan.topology, rank, self.meeting, node.cores, accelerated, self.plan.environment)
            )
        for node_rank, places in by_node.items():
            self._do(Tell(node_rank, p.Launch(places, self.generation, self.plan.store)))

    # -- nodes

    def _node_joined(self, joined: NodeJoined) -> None:
        if joined.node_rank in self.nodes or joined.node_rank not in range(self.plan.topology.nodes):
            return
        self.nodes[joined.node_rank] = joined
        if self.state is not S.LAUNCHING or len(self.nodes) < self.plan.topology.nodes:
            return
        first = self.nodes[0]
        self.meeting = Meeting(first.address, first.port, self.plan.i6pn)
        self._launch(range(len(self.ranks)))
        self._do(SetTimer("group", GROUP_SECONDS))
        short = [node for node in self.nodes.values() if node.accelerators < self.plan.topology.ranks_per_node]
        if self.plan.accelerated and short:
            found = f"{short[0].accelerators} GPU{'s' * (short[0].accelerators != 1)}"
            needs = self.plan.topology.ranks_per_node
            self._do(Log(p.Notice(f"found {found} for {needs} ranks of a node: they run on the CPU instead")))

    def _node_gone(self, gone: NodeGone) -> None:
        self.nodes.pop(gone.node_rank, None)
        self.gone.add(gone.node_rank)
        if self.state is S.CLOSING:
            if not self.nodes:
                self._close("stopped")
            return
        for rank in self.plan.topology.ranks_of(gone.node_rank):
            if self.ranks[rank].state is not R.LOST:
                event = p.Lost(rank, gone.cause)
                self._do(Log(event))
                self._lost(event)
        if not self.nodes:
            self._close(f"node {gone.node_rank} {gone.cause}, and no node is left")

    # -- events of ranks

    def _launched(self, event: p.Launched) -> None:
        self._advance(event.rank, event).pid = event.pid

    def _grouped(self, event: p.Grouped) -> None:
        if event.generation != self.generation:
            return
        rank = self._advance(event.rank, event)
        rank.attempts = 0
        rank.device = event.device

    def _group_failed(self, event: p.GroupFailed) -> None:
        if event.generation != self.generation:
            return
        self._advance(event.rank, event)
        self.group_attempts += 1
        if self.group_attempts < ATTEMPTS:
            self._regroup()
            return
        reason = (
            f"{name_ranks([event.rank])} could not join the process group: {event.error.name}: {event.error.message}"
        )
        if self.state is S.LAUNCHING:
            self._begin_closing(reason)
        else:
            for rank in self.ranks:
                if rank.state is R.RENDEZVOUS:
                    rank.state = R.IDLE
            self._enter(S.DEGRADED, reason)

    def _started(self, event: p.Started) -> None:
        if self._owes(event.rank, event.run):
            self._advance(event.rank, event)

    def _owes(self, rank: int, run: str) -> bool:
        return self.active is not None and self.active.run == run and rank in self.active.pending

    def _ended(self, event: p.Finished | p.Failed | p.Interrupted) -> None:
        if not self._owes(event.rank, event.run):
            return
        self._advance(event.rank, event)
        assert self.active is not None
        self.active.pending.discard(event.rank)
        self.active.health[event.rank] = event.health
        if isinstance(event, p.Failed):
            self._failed(event.rank, COMMUNICATION if event.error.kind == "communication" else EXCEPTION)

    def _lost(self, event: p.Lost) -> None:
        rank = self._advance(event.rank, event)
        rank.pid, rank.device = 0, ""
        self.restarting.discard(event.rank)
        if self.active is not None and event.rank in self.active.pending:
            self.active.pending.discard(event.rank)
            self._failed(event.rank, LOST)

    def _failed(self, rank: int, kind: int) -> None:
        assert self.active is not None
        first = not self.active.failures
        # A rank that is lost because it did not leave when it was told to is not the cause.
        if not (kind == LOST and self.active.released):
            self.active.failures.append((kind, rank))
        if first and self.active.pending and not self.active.interrupted:
            self._do(SetTimer("verdict", VERDICT_SECONDS))

    # -- requests

    def _asked(self, asked: Asked) -> None:
        match asked.request:
            case p.Run() as run:
                self._asked_run(asked.client, run)
            case p.InterruptRun(run=name):
                self._asked_interrupt(name)
            case p.Restart(request=request, ranks=ranks):
                chosen = range(len(self.ranks)) if ranks is None else ranks
                if unknown := [rank for rank in chosen if rank not in range(len(self.ranks))]:
                    self._do(Answer(asked.client, p.Refused(request, f"there is no {name_ranks(unknown)}")))
                    return
                self.restarts.append((asked.client, request))
                self.group_attempts = 0
                for rank in chosen:
                    self.ranks[rank].attempts = 0
                alive = [rank for rank in chosen if self.ranks[rank].state is not R.LOST]
                self.restarting.update(alive)
                self._tell_ranks(alive, p.KillRanks)
            case p.Stop(reason=reason):
                self._begin_closing(reason)

    def _asked_run(self, client: bytes, request: p.Run) -> None:
        chosen = range(len(self.ranks)) if request.ranks is None else request.ranks
        name = request.task.run
        if self.state in (S.CLOSING, S.CLOSED):
            self._do(Answer(client, p.Refused(name, "the session is closing")))
        elif not chosen or any(rank not in range(len(self.ranks)) for rank in chosen):
            limit = len(self.ranks) - 1
            self._do(Answer(client, p.Refused(name, f"the session has ranks 0-{limit}, not {format_ranks(chosen)}")))
        elif (self.active is not None and self.active.run == name) or any(r.task.run == name for _, r in self.queue):
            self._do(Answer(client, p.Refused(name, "a run of this id is there already")))
        else:
            self.queue.append((client, request))
            position = len(self.queue) - 1 + (self.active is not None)
            if position or self.state not in (S.READY, S.DEGRADED):
                self._do(Log(p.RunQueued(name, position)))

    def _asked_interrupt(self, name: str) -> None:
        for queued in [entry for entry in self.queue if entry[1].task.run == name]:
            self.queue.remove(queued)
            self._do(Log(p.RunEnded(name, "interrupted", [], 0.0)))
        if self.active is not None and self.active.run == name:
            self.active.interrupted = True
            self._release()

    def _release(self) -> None:
        """Have those that still owe an end leave the run; the agents see to it that they do, by force if need be."""
        assert self.active is not None
        self.active.released = True
        self._do(SetTimer("verdict", None))
        self._tell_ranks(sorted(self.active.pending), p.InterruptRanks, self.active.run)

    def _attendance(self, stimulus: Attendance) -> None:
        self.clients = stimulus.clients

    def _fired(self, fired: Fired) -> None:
        if fired.timer == "verdict" and self.active is not None and self.active.pending:
            self._release()
        elif fired.timer == "group":
            late = [number for number, rank in enumerate(self.ranks) if rank.state in (R.LAUNCHING, R.RENDEZVOUS)]
            self._tell_ranks(late, p.KillRanks)
        elif fired.timer == "lease" and self._leasing():
            self._begin_closing(f"its lease of {self.plan.lease / 60:g} min ran out with no kernel attached and no run")
        elif fired.timer == "closing" and self.state is S.CLOSING:
            self._close("stopped; not every node said goodbye")

    # -- what follows from the state alone, after every stimulus

    def _settle(self) -> None:
        if self.active is not None and not self.active.pending:
            self._end_run(self.active)
        if self.active is None and not self.restarting:
            self._revive()
            self._open()
            self._start_next()
        leasing = self._leasing()
        if leasing != self._lease_runs:
            self._lease_runs = leasing
            self._do(SetTimer("lease", self.plan.lease if leasing else None))

    def _leasing(self) -> bool:
        return not self.clients and self.active is None and not self.queue

    def _end_run(self, active: ActiveRun) -> None:
        self.active = None
        self._do(SetTimer("verdict", None))
        self._log_end(active)
        if self.plan.grouped and not _can_meet_again(active):
            self._regroup()

    def _log_end(self, active: ActiveRun) -> None:
        unfinished = bool(active.pending)
        status: p.RunStatus = "done"
        if active.interrupted or (unfinished and not active.failures):
            status = "interrupted"
        elif active.failures:
            status = "failed"
        culprits = [rank for _, rank in sorted(active.failures, key=lambda failure: failure[0])]
        self._do(Log(p.RunEnded(active.run, status, [] if active.interrupted else culprits, 0.0)))

    def _regroup(self) -> None:
        """Build the next generation's process group of all ranks that live; `_revive` adds those that do not."""
        self.generation += 1
        free = [number for number, rank in enumerate(self.ranks) if rank.state in FREE or rank.state is R.RENDEZVOUS]
        order = p.Regroup(self.generation)
        for number in free:
            self._advance(number, order)
        # A worker that is only starting was told an older generation: it must hear of this one too.
        starting = [number for number, rank in enumerate(self.ranks) if rank.state is R.LAUNCHING]
        if self.state is not S.LAUNCHING:
            self._enter(S.RECOVERING)
        self._do(SetTimer("group", GROUP_SECONDS))
        self._tell_ranks([*free, *starting], p.RegroupRanks, self.generation)

    def _revive(self) -> None:
        """Start the workers of lost ranks anew, empty, where their node is there and they do not die at every start."""
        topology = self.plan.topology
        lost = [
            number
            for number, rank in enumerate(self.ranks)
            if rank.state is R.LOST and topology.node_of(number) in self.nodes and rank.attempts < ATTEMPTS
        ]
        if not lost:
            return
        if self.plan.grouped:
            self._regroup()
        elif self.state is not S.LAUNCHING:
            self._enter(S.RECOVERING)
        for number in lost:
            self.ranks[number].attempts += 1
            self._advance(number, p.Launch([], 0, None))
        self._launch(lost)

    def _open(self) -> None:
        """Say READY when every rank is free, DEGRADED when the others are and some will not come back."""
        if any(rank.state not in FREE and rank.state is not R.LOST for rank in self.ranks):
            return
        lost = [number for number, rank in enumerate(self.ranks) if rank.state is R.LOST]
        if not lost and self.state is not S.DEGRADED:
            self.group_attempts = 0
            self._enter(S.READY)
        elif lost:
            self._enter(S.DEGRADED, f"{name_ranks(lost)} cannot be started again: %modal_restart tries once more")
        self._do(SetTimer("group", None))
        for client, request in self.restarts:
            self._do(Answer(client, p.Done(request)))
        self.restarts.clear()

    def _start_next(self) -> None:
        while self.queue and self.active is None and self.state in (S.READY, S.DEGRADED):
            client, request = self.queue.popleft()
            chosen = tuple(range(len(self.ranks)) if request.ranks is None else request.ranks)
            lost = [rank for rank in chosen if self.ranks[rank].state not in FREE]
            name = request.task.run
            if lost:
                reason = f"{name_ranks(lost)} is lost: --ranks names others, %modal_restart starts it again"
                self._do(Answer(client, p.Refused(name, reason)), Log(p.RunEnded(name, "failed", lost, 0.0)))
                continue
            submitted = p.Submitted(name, list(chosen), request.task.cell, request.task.source)
            for rank in chosen:
                self._advance(rank, submitted)
            self.active = ActiveRun(name, chosen, set(chosen))
            self._enter(S.RUNNING)
            self._do(Log(submitted))
            self._tell_ranks(chosen, p.Submit, request.task)

    # -- the end

    def _begin_closing(self, reason: str) -> None:
        if self.state in (S.CLOSING, S.CLOSED):
            return
        self._abandon()
        self._enter(S.CLOSING, reason)
        if not self.nodes:
            self._close(reason)
            return
        for node_rank in self.nodes:
            self._do(Tell(node_rank, p.Shutdown()))
        self._do(SetTimer("closing", CLOSING_SECONDS))

    def _close(self, reason: str) -> None:
        self._abandon()
        self._enter(S.CLOSED, reason)
        self._do(End(reason))

    def _abandon(self) -> None:
        """Every run ends, also when the session does."""
        if self.active is not None:
            active, self.active = self.active, None
            self._log_end(active)
        while self.queue:
            self._do(Log(p.RunEnded(self.queue.popleft()[1].task.run, "interrupted", [], 0.0)))


def _can_meet_again(active: ActiveRun) -> bool:
    """Whether the process groups are as good as before: nobody lost or cut off, and all issued the same collectives."""
    if len(active.health) < len(active.ranks):
        return False
    counts: dict[str, int] = {}
    for health in active.health.values():
        if health.severed or not health.grouped:
            return False
        for group, count in health.sequences.items():
            if counts.setdefault(group, count) != count:
                return False
    return True


_HANDLERS: dict[type[Stimulus], Callable[[Machine, Any], None]] = {
    NodeJoined: Machine._node_joined,
    NodeGone: Machine._node_gone,
    Asked: Machine._asked,
    Attendance: Machine._attendance,
    Fired: Machine._fired,
    p.Launched: Machine._launched,
    p.Grouped: Machine._grouped,
    p.GroupFailed: Machine._group_failed,
    p.Started: Machine._started,
    p.Finished: Machine._ended,
    p.Failed: Machine._ended,
    p.Interrupted: Machine._ended,
    p.Lost: Machine._lost,
}
