"""What clients ask for: a run, an interrupt, fresh ranks, the end; and why that is refused."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.ranges import format_ranks, name_ranks
from modal_magic.state.advice import START_ANEW
from modal_magic.state.closing import begin_closing
from modal_magic.state.running import interrupt
from modal_magic.state.tables import RankState, SessionState
from modal_magic.state.truth import Truth
from modal_magic.state.words import Answer, Asked

__all__ = ["asked"]


def asked(truth: Truth, stimulus: Asked) -> None:
    """Take a request of a client."""
    match stimulus.request:
        case p.Run() as run:
            _run(truth, stimulus.client, run)
        case p.InterruptRun(run=name):
            truth.do(*truth.queue.remove(name))
            if truth.active is not None and truth.active.run == name:
                truth.active.final = True  # also one that fails already, and would be tried again
                interrupt(truth, truth.active)
        case p.Restart() as restart:
            _restart(truth, stimulus.client, restart)
        case p.SetLimits() as change:
            _set_limits(truth, stimulus.client, change, stimulus.uptime)
        case p.Stop(reason=reason):
            begin_closing(truth, reason)


def _run(truth: Truth, client: bytes, request: p.Run) -> None:
    chosen = range(len(truth.ranks)) if request.ranks is None else request.ranks
    name = request.task.run
    if not chosen or any(rank not in range(len(truth.ranks)) for rank in chosen):
        there = name_ranks(range(len(truth.ranks)))
        truth.do(Answer(client, p.Refused(name, f"the session has {there}, not {format_ranks(chosen)}")))
    elif (truth.active is not None and truth.active.run == name) or name in truth.queue.runs:
        truth.do(Answer(client, p.Refused(name, "a run of this id is there already")))
    else:
        free = truth.state in (SessionState.READY, SessionState.DEGRADED)
        truth.do(*truth.queue.add(client, request, before=int(truth.active is not None), at_once=free))


def _restart(truth: Truth, client: bytes, request: p.Restart) -> None:
    chosen = range(len(truth.ranks)) if request.ranks is None else request.ranks
    unknown = [rank for rank in chosen if rank not in range(len(truth.ranks))]
    if unknown:
        truth.do(Answer(client, p.Refused(request.request, f"there is no {name_ranks(unknown)}")))
        return
    away = [rank for rank in chosen if truth.settings.topology.node_of(rank) not in truth.nodes]
    if away and truth.rendezvous is not None:
        nodes = {truth.settings.topology.node_of(rank) for rank in away}
        one = len(nodes) == 1
        how = (
            ("does not answer" if one else "do not answer")
            if nodes & truth.silent
            else "is gone"
            if one
            else "are gone"
        )
        reason = f"the node{'s' * (not one)} of {name_ranks(away)} {how}: {START_ANEW}"
        truth.do(Answer(client, p.Refused(request.request, reason)))
        return
    if not chosen:
        truth.do(Answer(client, p.Done(request.request)))
        return
    if truth.active is not None:
        truth.active.final = True
    truth.restarts.append((client, request.request))
    truth.group_attempts, truth.group_trouble = 0, ""
    for rank in chosen:
        truth.ranks[rank].attempts = 0
    alive = [rank for rank in chosen if truth.ranks[rank].state is not RankState.LOST]
    if truth.rendezvous is not None:  # before, no rank has been started that could be stale
        truth.restarting.update(alive)
        truth.tell_ranks(alive, p.KillRanks)


def _set_limits(truth: Truth, client: bytes, request: p.SetLimits, uptime: float) -> None:
    refusal = truth.lease.change(request.limits, uptime)
    truth.do(Answer(client, p.Refused(request.request, refusal) if refusal else p.Done(request.request)))
