"""What a rank and a session may do next, as data; the diagrams in docs/states.md are made from it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from modal_magic import protocol as p
from modal_magic.state.words import Effect

__all__ = ["BUSY", "FREE", "RANK_TABLE", "SESSION_TABLE", "RankState", "SessionState", "UnexpectedEvent"]


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
        **{(state, p.Finished): R.DONE for state in (R.QUEUED, R.RUNNING)},  # a short cell does not say that it begins
        **{(state, p.Failed): R.FAILED for state in (R.QUEUED, R.RUNNING)},
        **{(state, p.Interrupted): R.INTERRUPTED for state in (R.QUEUED, R.RUNNING)},
        **{(state, p.Lost): R.LOST for state in RankState if state is not R.LOST},
        (R.LOST, p.Launch): R.LAUNCHING,
        (R.LOST, p.Returned): R.RENDEZVOUS,
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
    """An event that the tables do not allow; the text holds the last events of that rank.

    `effects` are of what had changed before, and must be done all the same. An event of a rank that is refused itself
    has changed nothing.
    """

    effects: list[Effect]

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.effects = []
