"""The run in progress: how it begins, what its ranks say of it, how they are freed from it, and how it ends."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.state.active_run import COMMUNICATION, EXCEPTION, LOST, ActiveRun, can_meet_again
from modal_magic.state.advice import away, name_nodes, why_refused
from modal_magic.state.attempts import next_attempt
from modal_magic.state.tables import FREE, SessionState
from modal_magic.state.truth import Truth
from modal_magic.state.words import Log, SetTimer
from modal_magic.values import write_duration

__all__ = ["VERDICT_SECONDS", "end_run", "ended", "interrupt", "lost", "release", "start_next", "started", "time_out"]

VERDICT_SECONDS = {LOST: 0.03, EXCEPTION: 0.15, COMMUNICATION: 0.15}
"""How long the verdict on a failure waits, by its kind.

Peers' connection errors can arrive before their cause, and what one rank raises others often raise too. Nothing tells
more than a lost rank: others may only be lost with it.
"""

S = SessionState


# ---- what ranks say --------------------------------------------------------------------------------------------------


def started(truth: Truth, event: p.Started) -> None:
    """A rank began the cell."""
    if _owes(truth, event.rank, event.run):
        truth.advance(event.rank, event)


def ended(truth: Truth, event: p.Finished | p.Failed | p.Interrupted) -> None:
    """A rank left the cell."""
    if not _owes(truth, event.rank, event.run):
        return
    truth.advance(event.rank, event).health = event.health
    assert truth.active is not None
    truth.active.pending.discard(event.rank)
    if isinstance(event, p.Failed):
        kind = COMMUNICATION if event.error.kind == "communication" else EXCEPTION
        cause = f"raised {event.error.name}: {event.error.message}".partition("\n")[0]
        _failed(truth, truth.active, event.rank, kind, cause)
    elif isinstance(event, p.Interrupted) and not truth.active.released:  # only an agent that leaves tells its ranks so
        _failed(truth, truth.active, event.rank, LOST, "left the run, for its node is taken away")


def lost(truth: Truth, event: p.Lost) -> None:
    """The process of a rank is gone."""
    rank = truth.advance(event.rank, event)
    rank.pid, rank.device, rank.health = 0, "", None
    wanted = event.rank in truth.restarting
    truth.restarting.discard(event.rank)
    if truth.active is not None and event.rank in truth.active.pending:
        truth.active.pending.discard(event.rank)
        if not event.forced:  # one that had to be killed to end the run is not why it ended
            _failed(truth, truth.active, event.rank, LOST, event.cause)
    elif rank.used and not rank.attempts and event.replaced and not wanted:  # no run tells of it
        what = f"rank {event.rank} {event.cause} while it ran no cell"
        truth.do(Log(p.Notice(f"{what}: it is started again without variables")))


def _owes(truth: Truth, rank: int, run: str) -> bool:
    return truth.active is not None and truth.active.run == run and rank in truth.active.pending


def _failed(truth: Truth, active: ActiveRun, rank: int, kind: int, cause: str) -> None:
    if active.fail(rank, kind, cause):
        truth.do(SetTimer("verdict", VERDICT_SECONDS[kind]))


# ---- what is done ----------------------------------------------------------------------------------------------------


def start_next(truth: Truth) -> None:
    """Send the next run to its ranks, if there is one and the session is free for it."""
    queue = truth.queue
    while queue.waiting and truth.active is None and not queue.retrying and truth.state in (S.READY, S.DEGRADED):
        client, request = queue.waiting[0]
        chosen = tuple(range(len(truth.ranks)) if request.ranks is None else dict.fromkeys(request.ranks))
        gone = [rank for rank in chosen if truth.ranks[rank].state not in FREE]
        name = request.task.run
        if request.task.attempt > 1 and (missing := away(truth, gone)):
            truth.do(*queue.await_nodes(request.task, f"when {name_nodes(missing)} back"))
            return
        queue.waiting.popleft()
        if gone:
            truth.do(Log(p.RunEnded(name, "failed", gone, 0.0, reason=why_refused(truth, gone))))
            continue
        task = request.task
        submitted = p.Submitted(name, list(chosen), task.cell, task.source, task.attempt)
        for rank in chosen:
            truth.advance(rank, submitted)
        truth.active = ActiveRun(name, chosen, set(chosen), client, request)
        truth.enter(S.RUNNING)
        truth.do(Log(submitted))
        truth.tell_ranks(chosen, p.Submit, task)
        if truth.active.timeout is not None:
            truth.do(SetTimer("timeout", truth.active.timeout))


def interrupt(truth: Truth, active: ActiveRun, reason: str = "") -> None:
    """End the run early, unless it has failed already; `reason` says why where nobody has asked for it."""
    if not active.failures and not active.interrupted:
        active.interrupted, active.reason = True, reason
    release(truth, active)


def release(truth: Truth, active: ActiveRun) -> None:
    """Have those that still owe an end leave the run; the agents see to it that they do, by force if need be."""
    active.released = True
    truth.do(SetTimer("verdict", None))
    truth.tell_ranks(sorted(active.pending), p.InterruptRanks, active.run)


def time_out(truth: Truth, active: ActiveRun, seconds: float) -> None:
    """The run has taken as long as it may."""
    interrupt(truth, active, f"it reached its time limit of {write_duration(seconds)} (--timeout)")


def end_run(truth: Truth, active: ActiveRun) -> None:
    """All ranks have left the run: say how it ended, or try it again, and rebuild the group if its ranks need that."""
    truth.active = None
    truth.do(SetTimer("verdict", None))
    if active.timeout is not None:
        truth.do(SetTimer("timeout", None))
    if (again := next_attempt(active)) is not None:
        truth.do(*truth.queue.retry(active.client, *again))
    else:
        truth.do(Log(active.verdict()))
    if truth.settings.grouped and not can_meet_again(rank.health for rank in truth.ranks):
        truth.group_attempts, truth.group_trouble = 0, ""
        truth.regroups = True
