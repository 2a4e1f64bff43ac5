"""What a gateway says to a client, beside the records of its log."""

from __future__ import annotations

import msgspec

from modal_magic.protocol.message import Message
from modal_magic.protocol.parts import RankStack, RankStatus, RunKnown, Stage
from modal_magic.protocol.session_events import LiveEvent


class Attached(Message):
    """The gateway's welcome: records follow after number `sequence`, and requests are taken after number `taken`.

    `runs` is for a new client: what goes on, or has ended with nobody there to show it. Of these it is sent all but the
    output that was shown before. `stages` are those of the session's start, as far as it has come.
    """

    version: int
    session: str
    world_size: int
    sequence: int
    taken: int
    state: str
    runs: list[RunKnown]
    stages: list[Stage] = msgspec.field(default_factory=list)


class Live(Message):
    """What has changed of bars, metrics and what ranks use, and to a client that was not there all of it."""

    events: list[LiveEvent]


class Tally(Message):
    """The gateway lives. It has sent the records up to number `sent` and taken the requests up to number `taken`."""

    sent: int
    taken: int


class Status(Message):
    """The answer to `AskStatus`. Times in seconds; what is left is None while that clock does not run.

    `idle` is None where the session may be without a run for any time.
    """

    request: str
    session: str
    state: str
    generation: int
    ranks: list[RankStatus]
    run: str | None
    queued: list[str]
    clients: int
    uptime: float
    lease: float
    lease_left: float | None
    idle: float | None = None
    idle_left: float | None = None
    lifetime_left: float | None = None


class LogPage(Message):
    """The answer to `AskLog`: records of outputs, displays and failures, oldest first, as bytes of `Record`s.

    There may be more after record `next`, None at the end. `text` counts the bytes of text that the run wrote in what
    was read for this page, on all ranks, and `written` those it wrote in all: what no page has is gone from the log.
    """

    request: str
    run: str
    records: list[bytes]
    next: int | None
    text: int
    written: int


class Stacks(Message):
    """The answer to `AskStack`: every rank of the session, in order."""

    request: str
    ranks: list[RankStack]


class Done(Message):
    """The request was carried out."""

    request: str


class Refused(Message):
    """The request cannot be carried out, and why. `request` is that of the request, or the id of its run."""

    request: str
    reason: str


class Closed(Message):
    """The last word of a gateway."""

    reason: str


Reply = Attached | Tally | Live | Status | LogPage | Stacks | Done | Refused | Closed
