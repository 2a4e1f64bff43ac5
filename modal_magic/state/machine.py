"""The machine of one session: takes what happened, says what must be done."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modal_magic import protocol as p
from modal_magic.state.closing import begin_closing, while_closing
from modal_magic.state.group import group_failed, grouped, launched, open_session, overdue, regroup, revive
from modal_magic.state.nodes import await_nodes, node_gone, node_joined, not_returned, patience_over
from modal_magic.state.requests import asked
from modal_magic.state.running import end_run, ended, lost, release, start_next, started, time_out
from modal_magic.state.tables import SessionState, UnexpectedEvent
from modal_magic.state.truth import Truth
from modal_magic.state.words import Asked, Attendance, Effect, Fired, Log, NodeGone, NodeJoined, Stimulus

__all__ = ["Machine"]

S = SessionState


class Machine(Truth):
    """The truth about one session. `handle` takes what happened and returns what must be done, in order."""

    def handle(self, stimulus: Stimulus) -> list[Effect]:
        """Take one stimulus. Raises UnexpectedEvent for an event that the tables forbid.

        An event of a rank that is refused changes nothing. What had changed otherwise has its effects in the exception.
        """
        self.effects = []
        if self.state is S.CLOSED:
            return self.effects
        if self.state is S.CLOSING:
            while_closing(self, stimulus)
            return self.effects
        try:
            _HANDLERS[type(stimulus)](self, stimulus)
            if self.state not in (S.CLOSING, S.CLOSED):
                _settle(self)
        except UnexpectedEvent as error:
            error.effects = self.effects
            raise
        return self.effects


def _attendance(truth: Truth, stimulus: Attendance) -> None:
    truth.clients = stimulus.clients


def _fired(truth: Truth, stimulus: Fired) -> None:
    active = truth.active
    match stimulus.timer:
        case "verdict":
            if active is not None and active.pending:
                release(truth, active)
        case "timeout":
            if active is not None and active.timeout is not None:
                time_out(truth, active, active.timeout)
        case "retry":
            truth.queue.retrying = ""
        case "group":
            overdue(truth)
        case "nodes":
            if truth.awaits_nodes:
                patience_over(truth)
        case timer if timer.startswith("return of node "):
            not_returned(truth, int(timer.split()[-1]))
        case timer:
            match truth.lease.fired(timer):
                case p.Notice() as warning:
                    truth.do(Log(warning))
                case str() as reason:
                    begin_closing(truth, reason)


def _settle(truth: Truth) -> None:
    """Do what follows from the state alone, after every stimulus."""
    if truth.active is not None and not truth.active.pending:
        end_run(truth, truth.active)
    if truth.active is None and truth.rendezvous is not None and not truth.restarting:
        revive(truth)
        if truth.regroups:  # not before: once for all, with those that are started anew
            regroup(truth)
        open_session(truth)
        start_next(truth)
    truth.do(*truth.queue.tell_places(int(truth.active is not None)))
    busy = truth.active is not None or bool(truth.queue.waiting)
    truth.do(*truth.lease.settle(truth.clients > 0, busy, truth.state is not S.LAUNCHING))
    await_nodes(truth)


_HANDLERS: Mapping[type, Callable[..., None]] = {
    NodeJoined: node_joined,
    NodeGone: node_gone,
    Asked: asked,
    Attendance: _attendance,
    Fired: _fired,
    p.Launched: launched,
    p.Grouped: grouped,
    p.GroupFailed: group_failed,
    p.Started: started,
    p.Finished: ended,
    p.Failed: ended,
    p.Interrupted: ended,
    p.Lost: lost,
}
