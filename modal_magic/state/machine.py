"""The truth about one session: takes what happened, says what must be done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from modal_magic import protocol as p
from modal_magic.ranges import format_ranks, name_ranks
from modal_magic.state.attempts import next_attempt
from modal_magic.state.lease import Lease
from modal_magic.state.plan import Plan, Rank
from modal_magic.state.runs import COMMUNICATION, EXCEPTION, LOST, ActiveRun, can_meet_again
from modal_magic.state.tables import FREE, RANK_TABLE, SESSION_TABLE, RankState, SessionState, UnexpectedEvent
from modal_magic.state.words import (
    Answer,
    Asked,
    Attendance,
    Effect,
    End,
    Fired,
    Log,
    NodeGone,
    NodeJoined,
    SetTimer,
    Stimulus,
    Tell,
)
from modal_magic.topology import Meeting, place
from modal_magic.values import write_duration

VERDICT_SECONDS = 0.15
"""How long the verdict on a failure waits: peers' connection errors can arrive before their cause."""
CLOSING_SECONDS = 5.0
"""How long nodes have to end their workers before the gateway leaves without them."""
GROUP_SECONDS = 120.0
"""How long ranks have to start and to form a process group before something is done about it."""
ALONE_SECONDS = 30.0
"""How long a rank that is up has to be without a group. One that takes longer is stuck, for it waits for nobody."""
ATTEMPTS = 3
"""How often a rank or a group is tried in a row before the session goes on without it."""

R, S = RankState, SessionState


class Machine:
    """The truth about one session. `handle` takes what happened and returns what must be done, in order."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.state = S.LAUNCHING
        self.generation = 1
        self.ranks = [Rank() for _ in range(plan.topology.world_size)]
        self.nodes: dict[int, NodeJoined] = {}
        self.silent: set[int] = set()
        self.returned = False
        self.meeting: Meeting | None = None
        self.active: ActiveRun | None = None
        self.queue: deque[tuple[bytes, p.Run]] = deque()
        self.places: dict[str, int] = {}
        self.retrying = ""
        self.restarts: list[tuple[bytes, str]] = []
        self.restarting: set[int] = set()
        self.clients = 0
        self.together = True
        self.group_attempts = 0
        self.group_trouble = ""
        self.closing_reason = ""
        self.lease = Lease(plan.lease, plan.idle, plan.max_lifetime)
        self._awaits_nodes = False
        self._effects: list[Effect] = []

    def handle(self, stimulus: Stimulus) -> list[Effect]:
        """Take one stimulus. Raises UnexpectedEvent for an event that the tables forbid.

        An event of a rank that is refused changes nothing. What had changed otherwise has its effects in the exception.
        """
        self._effects = []
        if self.state is S.CLOSED:
            return self._effects
        if self.state is S.CLOSING:
            self._while_closing(stimulus)
            return self._effects
        try:
            _HANDLERS[type(stimulus)](self, stimulus)
            if self.state not in (S.CLOSING, S.CLOSED):
                self._settle()
        except UnexpectedEvent as error:
            error.effects = self._effects
            raise
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

    def _advance(self, number: int, event: p.Message) -> Rank:
        rank, kind = self.ranks[number], type(event)
        after = RANK_TABLE.get((rank.state, kind))
        if after is None:
            history = ", ".join(rank.history) or "nothing"
            raise UnexpectedEvent(f"rank {number} is {rank.state} and cannot take {kind.__name__}; before: {history}")
        rank.history.append(kind.__name__)
        rank.state = after
        return rank

    def _in(self, *states: RankState) -> list[int]:
        return [number for number, rank in enumerate(self.ranks) if rank.state in states]

    def _by_node(self, ranks: Iterable[int]) -> dict[int, list[int]]:
        """Ranks by their node, as far as it is there."""
        found: dict[int, list[int]] = {}
        for rank in ranks:
            node_rank = self.plan.topology.node_of(rank)
            if node_rank in self.nodes:
                found.setdefault(node_rank, []).append(rank)
        return found

    def _tell_ranks(self, ranks: Iterable[int], order: Callable[..., p.Order], *rest: object) -> None:
        self._do(*(Tell(node_rank, order(numbers, *rest)) for node_rank, numbers in self._by_node(ranks).items()))

    def _launch(self, ranks: Iterable[int]) -> None:
        assert self.meeting is not None
        topology, environment = self.plan.topology, self.plan.environment
        for node_rank, numbers in self._by_node(ranks).items():
            node = self.nodes[node_rank]
            accelerated = self.plan.accelerated and node.accelerators >= topology.ranks_per_node
            places = [
                place(topology, rank, self.meeting, node.cores, accelerated, environment, self.ranks[rank].used)
                for rank in numbers
            ]
            self._do(Tell(node_rank, p.Launch(places, self.generation, self.plan.store)))

    # -- nodes

    def _node_joined(self, joined: NodeJoined) -> None:
        if joined.node_rank not in range(self.plan.topology.nodes):
            return
        if (before := self.nodes.get(joined.node_rank)) is not None:
            if before.pid == joined.pid:  # it was asked twice
                return
            self._lose_ranks(
                joined.node_rank, f"ended with the agent of node {joined.node_rank}, which {joined.predecessor}"
            )
        self.nodes[joined.node_rank] = joined
        self._do(SetTimer(f"return of node {joined.node_rank}", None))
        if joined.node_rank in self.silent:
            self.silent.discard(joined.node_rank)
            self._welcome_back(joined)
        if self.meeting is not None and joined.node_rank == 0:  # it may have come back elsewhere
            self.meeting = Meeting(joined.address, joined.port, self.plan.i6pn)
        if self.meeting is not None or len(self.nodes) < self.plan.topology.nodes:
            return  # of one that comes back, `_revive` starts the ranks that are lost
        self.meeting = Meeting(self.nodes[0].address, self.nodes[0].port, self.plan.i6pn)
        self._launch(self._in(R.LAUNCHING))
        self._do(SetTimer("group", GROUP_SECONDS))
        needs = self.plan.topology.ranks_per_node
        short = [node.accelerators for node in self.nodes.values() if node.accelerators < needs]
        if self.plan.accelerated and short:
            found = f"found {short[0]} GPU{'s' * (short[0] != 1)} for {needs} rank{'s' * (needs != 1)} of a node"
            self._do(Log(p.Notice(f"{found}: they run on the CPU instead")))

    def _node_gone(self, gone: NodeGone) -> None:
        self.nodes.pop(gone.node_rank, None)
        verb = "went silent" if gone.silent else "ended"
        self._lose_ranks(gone.node_rank, f"{verb} with node {gone.node_rank}, which {gone.cause}", replaced=False)
        if gone.silent:
            self.silent.add(gone.node_rank)
            self._do(SetTimer(f"return of node {gone.node_rank}", p.DEAD_MAN_SECONDS))
        else:
            self._give_up(gone.node_rank, gone.cause)
        if self.nodes and self.meeting is None:  # it may come back, but nobody waits for it for ever
            self._do(SetTimer("group", GROUP_SECONDS))

    def _lose_ranks(self, node_rank: int, cause: str, replaced: bool = True) -> None:
        for rank in self.plan.topology.ranks_of(node_rank):
            if self.ranks[rank].state is not R.LOST:
                event = p.Lost(rank, cause, replaced=replaced)
                self._do(Log(event))
                self._lost(event)

    def _give_up(self, node_rank: int, cause: str) -> None:
        """A node will not come back. Without any node there is no session."""
        self.silent.discard(node_rank)
        self._do(SetTimer(f"return of node {node_rank}", None))
        if not self.nodes and not self.silent:
            self._close(f"node {node_rank} {cause}, and no node is left")

    def _welcome_back(self, joined: NodeJoined) -> None:
        """A node that fell silent is there again: its workers have kept their variables, and leave what they ran."""
        own = self.plan.topology.ranks_of(joined.node_rank)
        back = [alive for alive in joined.workers if alive.rank in own and self.ranks[alive.rank].state is R.LOST]
        for alive in back:
            self._advance(alive.rank, p.Returned(alive.rank) if alive.launched else p.Launch([], 0, None))
            self.ranks[alive.rank].pid = alive.pid
            self._do(Log(p.Returned(alive.rank)))
            if alive.run:
                self._tell_ranks([alive.rank], p.InterruptRanks, alive.run)
        self.returned = self.returned or bool(back)
        if back and not self.plan.grouped:
            self._tell_ranks([alive.rank for alive in back], p.RegroupRanks, self.generation, True)
        who = name_ranks([alive.rank for alive in back])
        kept = f": {who} kept {'its' if len(back) == 1 else 'their'} variables" if back else ""
        self._do(Log(p.Notice(f"node {joined.node_rank} answers again{kept}")))

    # -- events of ranks

    def _launched(self, event: p.Launched) -> None:
        self._advance(event.rank, event).pid = event.pid

    def _grouped(self, event: p.Grouped) -> None:
        if event.generation != self.generation:
            return
        rank = self._advance(event.rank, event)
        rank.attempts, rank.used = 0, True
        rank.device, rank.health = event.device, event.health

    def _group_failed(self, event: p.GroupFailed) -> None:
        if event.generation != self.generation:
            return
        self._advance(event.rank, event)
        who = name_ranks([event.rank])
        self._no_group(f"{who} could not join the process group: {event.error.name}: {event.error.message}")

    def _no_group(self, reason: str) -> None:
        """A group could not be formed: try again, and when that is of no use go on without one."""
        self.group_attempts += 1
        if self.group_attempts < ATTEMPTS:
            self._regroup()
        elif self.state is S.LAUNCHING:
            self._begin_closing(reason)
        else:
            self.group_trouble = reason
            self._regroup()  # nobody waits any longer for a group that will not be

    def _alone(self) -> bool:
        """Whether the ranks are not to wait for each other."""
        return not self.plan.grouped or not self.together or bool(self.group_trouble)

    def _replace(self, ranks: list[int], cause: str) -> None:
        """Have stuck ranks ended: lost, they are started anew."""
        self._tell_ranks(ranks, p.KillRanks, cause)
        self._do(SetTimer("group", GROUP_SECONDS))

    def _owes(self, rank: int, run: str) -> bool:
        return self.active is not None and self.active.run == run and rank in self.active.pending

    def _started(self, event: p.Started) -> None:
        if self._owes(event.rank, event.run):
            self._advance(event.rank, event)

    def _ended(self, event: p.Finished | p.Failed | p.Interrupted) -> None:
        if not self._owes(event.rank, event.run):
            return
        self._advance(event.rank, event).health = event.health
        assert self.active is not None
        self.active.pending.discard(event.rank)
        if isinstance(event, p.Failed):
            kind = COMMUNICATION if event.error.kind == "communication" else EXCEPTION
            self._failed(event.rank, kind, f"raised {event.error.name}: {event.error.message}".partition("\n")[0])

    def _lost(self, event: p.Lost) -> None:
        rank = self._advance(event.rank, event)
        rank.pid, rank.device, rank.health = 0, "", None
        self.restarting.discard(event.rank)
        if self.active is not None and event.rank in self.active.pending:
            self.active.pending.discard(event.rank)
            if not event.forced:  # one that had to be killed to end the run is not why it ended
                self._failed(event.rank, LOST, event.cause)

    def _failed(self, rank: int, kind: int, cause: str) -> None:
        assert self.active is not None
        if self.active.fail(rank, kind, cause):
            self._do(SetTimer("verdict", VERDICT_SECONDS))

    # -- requests

    def _asked(self, asked: Asked) -> None:
        match asked.request:
            case p.Run() as run:
                self._asked_run(asked.client, run)
            case p.InterruptRun(run=name):
                self._asked_interrupt(name)
            case p.Restart() as restart:
                self._asked_restart(asked.client, restart)
            case p.Stop(reason=reason):
                self._begin_closing(reason)

    def _asked_run(self, client: bytes, request: p.Run) -> None:
        chosen = range(len(self.ranks)) if request.ranks is None else request.ranks
        name = request.task.run
        if not chosen or any(rank not in range(len(self.ranks)) for rank in chosen):
            there = name_ranks(range(len(self.ranks)))
            self._do(Answer(client, p.Refused(name, f"the session has {there}, not {format_ranks(chosen)}")))
        elif (self.active is not None and self.active.run == name) or any(r.task.run == name for _, r in self.queue):
            self._do(Answer(client, p.Refused(name, "a run of this id is there already")))
        else:
            self.queue.append((client, request))
            position = len(self.queue) - 1 + (self.active is not None)
            if position or self.state not in (S.READY, S.DEGRADED):
                self.places[name] = position
                self._do(Log(p.RunQueued(name, position)))

    def _asked_interrupt(self, name: str) -> None:
        for queued in [entry for entry in self.queue if entry[1].task.run == name]:
            self.queue.remove(queued)
            self._do(Log(p.RunEnded(name, "interrupted", [], 0.0)))
            if self.retrying == name:
                self.retrying = ""
                self._do(SetTimer("retry", None))
        if self.active is not None and self.active.run == name:
            self._interrupt(self.active)

    def _interrupt(self, active: ActiveRun, reason: str = "") -> None:
        if not active.failures and not active.interrupted:
            active.interrupted, active.reason = True, reason
        self._release()

    def _asked_restart(self, client: bytes, request: p.Restart) -> None:
        chosen = range(len(self.ranks)) if request.ranks is None else request.ranks
        unknown = [rank for rank in chosen if rank not in range(len(self.ranks))]
        if unknown:
            self._do(Answer(client, p.Refused(request.request, f"there is no {name_ranks(unknown)}")))
            return
        away = [rank for rank in chosen if self.plan.topology.node_of(rank) not in self.nodes]
        if away and self.meeting is not None:
            silent = any(self.plan.topology.node_of(rank) in self.silent for rank in away)
            how = "does not answer" if silent else "is gone"
            reason = f"the node of {name_ranks(away)} {how}: %modal_stop ends the session, the next cell starts anew"
            self._do(Answer(client, p.Refused(request.request, reason)))
            return
        if not chosen:
            self._do(Answer(client, p.Done(request.request)))
            return
        if self.active is not None:
            self.active.final = True
        self.restarts.append((client, request.request))
        self.group_attempts, self.group_trouble = 0, ""
        for rank in chosen:
            self.ranks[rank].attempts = 0
        alive = [rank for rank in chosen if self.ranks[rank].state is not R.LOST]
        if self.meeting is not None:  # before, no rank has been started that could be stale
            self.restarting.update(alive)
            self._tell_ranks(alive, p.KillRanks)

    def _release(self) -> None:
        """Have those that still owe an end leave the run; the agents see to it that they do, by force if need be."""
        assert self.active is not None
        self._do(SetTimer("verdict", None))
        self._tell_ranks(sorted(self.active.pending), p.InterruptRanks, self.active.run)

    def _attendance(self, stimulus: Attendance) -> None:
        self.clients = stimulus.clients

    def _fired(self, fired: Fired) -> None:
        if fired.timer == "verdict" and self.active is not None and self.active.pending:
            self._release()
        elif fired.timer == "timeout" and self.active is not None and self.active.timeout is not None:
            self._interrupt(
                self.active, f"it reached its time limit of {write_duration(self.active.timeout)} (--timeout)"
            )
        elif fired.timer == "retry":
            self.retrying = ""
        elif fired.timer == "group":
            if self.meeting is None:
                missing = [str(node) for node in range(self.plan.topology.nodes) if node not in self.nodes]
                self._begin_closing(f"node {', '.join(missing)} went away before the session was up")
            elif starting := self._in(R.LAUNCHING):
                self._replace(starting, f"did not start within {GROUP_SECONDS:g} s and was killed")
            elif stuck := self._in(R.RENDEZVOUS):
                if self._alone():
                    self._replace(stuck, "stopped answering and was killed")
                    return
                if self.state is not S.LAUNCHING:
                    # A rank that cannot connect says so. Of those that say nothing some wait and some are stuck: alone,
                    # it shows which.
                    self.group_attempts = ATTEMPTS
                self._no_group(f"the process group did not form within {GROUP_SECONDS:g} s")
        elif fired.timer == "nodes" and self.meeting is None:
            self._begin_closing(self._still_queued())
        elif fired.timer.startswith("return of node ") and (node_rank := int(fired.timer.split()[-1])) in self.silent:
            self._give_up(node_rank, "stopped answering")
            if self.nodes and self.meeting is None and not self._awaits_nodes:  # nobody else would end the wait
                self._begin_closing(f"node {node_rank} stopped answering before the session was up")
        else:
            match self.lease.fired(fired.timer):
                case p.Notice() as warning:
                    self._do(Log(warning))
                case str() as reason:
                    self._begin_closing(reason)

    def _still_queued(self) -> str:
        assert self.plan.patience is not None
        here, count = sorted(self.nodes), self.plan.topology.nodes
        queued = [node_rank for node_rank in range(count) if node_rank not in self.nodes]
        which = f"node{'s' * (len(queued) != 1)} {format_ranks(queued)} of {count}"
        verb = "is" if len(queued) == 1 else "are"
        others = f"; node{'s' * (len(here) != 1)} {format_ranks(here)} started and ended again" if here else ""
        return f"{which} {verb} still queued after {self.plan.patience:g} s{others}"

    # -- what follows from the state alone, after every stimulus

    def _settle(self) -> None:
        if self.active is not None and not self.active.pending:
            self._end_run(self.active)
        if self.active is None and self.meeting is not None and not self.restarting:
            self._revive()
            self._open()
            self._start_next()
        self._tell_places()
        busy = self.active is not None or bool(self.queue)
        self._do(*self.lease.settle(self.clients > 0, busy, self.state is not S.LAUNCHING))
        awaiting = self.meeting is None and self.plan.patience is not None
        if awaiting != self._awaits_nodes:
            self._awaits_nodes = awaiting
            self._do(SetTimer("nodes", self.plan.patience if awaiting else None))

    def _end_run(self, active: ActiveRun) -> None:
        self.active = None
        self._do(SetTimer("verdict", None))
        if active.timeout is not None:
            self._do(SetTimer("timeout", None))
        if (again := next_attempt(active)) is not None:
            request, told = again
            self._do(Log(told), SetTimer("retry", told.delay))
            self.retrying = active.run
            self.queue.appendleft((active.client, request))
        else:
            self._do(Log(active.verdict()))
        if self.plan.grouped and not can_meet_again(rank.health for rank in self.ranks):
            self.group_attempts, self.group_trouble = 0, ""
            self._regroup()

    def _regroup(self) -> None:
        """Have every rank that lives join the next generation's group; alone where some will not come."""
        self.generation += 1
        together = not self._alone()
        order = p.Regroup(self.generation, together)
        present = self._in(*FREE, R.RENDEZVOUS)
        for number in present:
            self._advance(number, order)
        if self.state is not S.LAUNCHING:
            self._enter(S.RECOVERING)
        waits = together or bool(self._in(R.LAUNCHING, R.LOST))
        self._do(SetTimer("group", GROUP_SECONDS if waits else ALONE_SECONDS))
        # A worker that is only starting was told an older generation: it must hear of this one too.
        self._tell_ranks([*present, *self._in(R.LAUNCHING)], p.RegroupRanks, self.generation, together)

    def _revive(self) -> None:
        """Start the workers of lost ranks anew, empty, where their node is there and they do not die at every start."""
        lost = self._in(R.LOST)
        coming = [
            number
            for number in lost
            if self.plan.topology.node_of(number) in self.nodes and self.ranks[number].attempts < ATTEMPTS
        ]
        together, before = len(coming) == len(lost), self.together
        self.together = together
        if coming:
            self.group_attempts, self.group_trouble = 0, ""  # another rank, another chance
        returned, self.returned = self.returned, False
        if (coming or returned) and together and self.plan.grouped:
            self._regroup()
        elif (coming or returned) and self.state is not S.LAUNCHING:
            self._enter(S.RECOVERING)
            self._do(SetTimer("group", GROUP_SECONDS))
        if coming and not together and self.plan.grouped:
            self.generation += 1  # those that start must not come to a group that others have left already
        for number in coming:
            self.ranks[number].attempts += 1
            self._advance(number, p.Launch([], 0, None))
        self._launch(coming)
        if self.plan.grouped and not together and (before or coming or returned):
            self._regroup()  # those that are there neither wait for those that will not come nor talk to them

    def _open(self) -> None:
        """Say READY when every rank is free, DEGRADED when the others are and some will not come back."""
        lost = self._in(R.LOST)
        if len(self._in(*FREE)) + len(lost) < len(self.ranks):
            return
        if lost:
            again = "%modal_restart tries once more" if self._by_node(lost) else "--ranks names others"
            away = [rank for rank in lost if self.plan.topology.node_of(rank) in self.silent]
            reason = f"{name_ranks(lost)} cannot be started again: {again}"
            if away:
                reason = f"{name_ranks(away)} will be back with all variables if the node is: {again}"
            self._enter(S.DEGRADED, reason)
        elif self.group_trouble:
            self._enter(S.DEGRADED, f"{self.group_trouble}. Cells run without a group; %modal_restart tries once more")
        else:
            self.group_attempts = 0
            self._enter(S.READY)
        self._do(SetTimer("group", None))
        self._do(*(Answer(client, p.Done(request)) for client, request in self.restarts))
        self.restarts.clear()

    def _tell_places(self) -> None:
        """Say where those that wait are now, as others before them have gone."""
        before, self.places = self.places, {}
        for index, (_, request) in enumerate(self.queue):
            name, position = request.task.run, index + (self.active is not None)
            self.places[name] = position
            if name in before and before[name] != position and self.retrying != name:
                self._do(Log(p.RunQueued(name, position)))

    def _start_next(self) -> None:
        while self.queue and self.active is None and not self.retrying and self.state in (S.READY, S.DEGRADED):
            client, request = self.queue.popleft()
            chosen = tuple(range(len(self.ranks)) if request.ranks is None else dict.fromkeys(request.ranks))
            lost = [rank for rank in chosen if self.ranks[rank].state not in FREE]
            name = request.task.run
            if lost:
                reason = f"{name_ranks(lost)} {'is' if len(lost) == 1 else 'are'} lost: --ranks names others"
                if self._by_node(lost):
                    reason += ", %modal_restart starts it again"
                self._do(Answer(client, p.Refused(name, reason)), Log(p.RunEnded(name, "failed", lost, 0.0)))
                continue
            task = request.task
            submitted = p.Submitted(name, list(chosen), task.cell, task.source, task.attempt)
            for rank in chosen:
                self._advance(rank, submitted)
            self.active = ActiveRun(name, chosen, set(chosen), client, request)
            self._enter(S.RUNNING)
            self._do(Log(submitted))
            self._tell_ranks(chosen, p.Submit, task)
            if self.active.timeout is not None:
                self._do(SetTimer("timeout", self.active.timeout))

    # -- the end

    def _begin_closing(self, reason: str) -> None:
        self.closing_reason = reason
        self._enter(S.CLOSING, reason)  # first of all: it is why runs end now
        self._abandon()
        if not self.nodes:
            self._close(reason)
            return
        self._do(*(Tell(node_rank, p.Shutdown()) for node_rank in self.nodes))
        self._do(SetTimer("closing", CLOSING_SECONDS))

    def _while_closing(self, stimulus: Stimulus) -> None:
        match stimulus:
            case NodeJoined(node_rank=node_rank) if node_rank in range(self.plan.topology.nodes):
                self.nodes[node_rank] = stimulus
                self._do(Tell(node_rank, p.Shutdown()))
            case NodeGone(node_rank=node_rank):
                self.nodes.pop(node_rank, None)
                if not self.nodes:
                    self._close(self.closing_reason)
            case Fired(timer="closing"):
                self._close(f"{self.closing_reason}; not every node said goodbye")
            case Asked(client=client, request=p.Run(task=p.Execute(run=name)) | p.Restart(request=name)):
                self._do(Answer(client, p.Refused(name, "the session is closing")))

    def _close(self, reason: str) -> None:
        self._abandon()
        self._enter(S.CLOSED, reason)
        self._do(End(reason))

    def _abandon(self) -> None:
        """Every run ends, also when the session does."""
        if self.active is not None:
            self._do(Log(self.active.verdict()))
            self.active = None
        self.retrying = ""
        while self.queue:
            self._do(Log(p.RunEnded(self.queue.popleft()[1].task.run, "interrupted", [], 0.0)))


_HANDLERS: Mapping[type, Callable[..., None]] = {
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
