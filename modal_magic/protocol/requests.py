"""What a client says to a gateway."""

from __future__ import annotations

from modal_magic.protocol.message import Message
from modal_magic.protocol.orders import Beat, Execute
from modal_magic.protocol.parts import Retries, Stream


class Attach(Message):
    """The first word of a client, and the first after it was away.

    It wants every record after number `since`. None, from a new client, means: what is still to be shown of the runs
    that go on, and all that comes. `taken` is the number of the newest of its requests that it knows to be taken. One
    that only `watches` does not keep the session: its lease runs as if nobody were there.
    """

    version: int
    client: str
    since: int | None
    taken: int = 0
    watches: bool = False


class Shown(Message):
    """The client has shown all of a run up to record number `sequence`, but for the unfinished lines in `rest`."""

    run: str
    sequence: int
    rest: list[tuple[int, Stream, str]]


class Run(Message):
    """Run a cell on these ranks (None: all). Text past `output_limit` bytes stays in the log (None: no limit).

    `timeout` is how many seconds each attempt may take, from the time at which it is sent to its ranks.
    """

    task: Execute
    ranks: list[int] | None
    output_limit: int | None
    timeout: float | None = None
    retries: Retries | None = None


class InterruptRun(Message):
    """Interrupt a run, begun or queued."""

    run: str


class Restart(Message):
    """End the workers of these ranks (None: all) and start them anew, empty."""

    request: str
    ranks: list[int] | None


class SetLimits(Message):
    """Live so long from now on: `lease`, `idle` and `max_lifetime` in seconds, None for any time; others stay."""

    request: str
    limits: dict[str, float | None]


class Stop(Message):
    """End the session."""

    reason: str


class AskStatus(Message):
    """How is the session?"""

    request: str


class AskLog(Message):
    """What the log has of a run (None: of the last one) on these ranks (None: all), after the record `after`."""

    request: str
    run: str | None
    ranks: list[int] | None
    after: int = 0


class AskStack(Message):
    """Where is every rank? With so many frames of each at most."""

    request: str
    depth: int


class Detach(Message):
    """The last word of a client."""


Numbered = Run | InterruptRun | Restart | SetLimits | Stop | AskStatus | AskLog | AskStack
"""Requests that are carried out once and in order: each goes with its number, from 1, and is kept until it is taken."""
Request = Numbered | Attach | Shown | Detach | Beat
