"""What the gateway says of a session and its runs, and the log of all events: each with its number."""

from __future__ import annotations

from typing import Literal

from modal_magic.protocol.message import Message, Part
from modal_magic.protocol.node_events import Metric, NodeEvent, Progress, Usage
from modal_magic.protocol.parts import RankStack, Stage

RunStatus = Literal["done", "failed", "interrupted"]


class Returned(Message):
    """A rank that was counted as lost with its node is there again, with its variables."""

    rank: int


class Submitted(Message):
    """A run was sent to its ranks: from here on each of them owes an end, also one that has not begun."""

    run: str
    ranks: list[int]
    cell: int
    source: str
    attempt: int = 1


class Stalled(Message):
    """Ranks of a run have waited for others for a while; all of them as they are now.

    `waiting` are the ranks that wait in a collective, `missing` those that they wait for: these may themselves wait,
    for others. Where no rank waits in a collective, `waiting` are those that have finished the cell, if any, and
    `missing` those that hold up its end.
    """

    run: str
    waiting: list[RankStack]
    missing: list[RankStack]


class RunQueued(Message):
    """A run waits; `position` runs are before it."""

    run: str
    position: int


class RunRetried(Message):
    """A run is not over: its ranks were lost, or it raised, and it begins again `delay` seconds after this.

    `cause` is a phrase with the rank that failed first: `rank 1 was killed by SIGKILL`. `attempt` is the one to come,
    of at most `attempts`.
    """

    run: str
    cause: str
    attempt: int
    attempts: int
    delay: float


class OutputCut(Message):
    """What a rank writes in a run has reached its limit: from here on it goes to the log alone."""

    run: str
    rank: int


class RunEnded(Message):
    """A run is over on every rank. `culprits` are the ranks that failed first, most telling cause first.

    `withheld` counts the bytes of output that were kept in the log but not sent to clients. `reason` says why a run was
    interrupted that nobody has interrupted, or has failed without being sent to its ranks.
    """

    run: str
    status: RunStatus
    culprits: list[int]
    seconds: float
    withheld: int = 0
    reason: str = ""


class SessionChanged(Message):
    """The session is in another state; `generation` numbers its process group."""

    state: str
    generation: int
    reason: str


class Curve(Message):
    """The course of a metric so far, for a client that was not there; every `stride`-th value was kept."""

    rank: int
    run: str
    name: str
    steps: list[float]
    values: list[float]
    stride: int


class Staged(Message):
    """A stage of the session's start has begun or is over."""

    stage: Stage


Event = (
    NodeEvent | Returned | Submitted | Stalled | RunQueued | RunRetried | OutputCut | RunEnded | SessionChanged | Staged
)

LiveEvent = Progress | Metric | Curve | Usage
"""What is told often and is worth nothing when it is old: not in the log; a client is sent the newest of it."""


class Record(Part):
    """One event in the log: its number (from 1, without gaps) and when the gateway learned it (seconds since 1970)."""

    sequence: int
    time: float
    event: Event
