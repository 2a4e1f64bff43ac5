"""What messages are made of: errors, stacks, places, and what is known of a rank or a run."""

from __future__ import annotations

from typing import Literal

import msgspec

from modal_magic.protocol.message import Part

Stream = Literal["stdout", "stderr"]
ErrorKind = Literal["exception", "communication", "exit"]
StageName = Literal["zygote", "build", "gateway", "queue", "restore", "cold start", "fork", "rendezvous", "first cell"]
"""The stages of a session's start: docs/architecture.md says what each is."""

ASYNC = " (async)"
"""What follows the name of a collective where a rank waits for the work of an asynchronous call."""


class Health(Part):
    """What a rank knows of its process groups when its cell ends.

    `sequences` has the number of collectives issued so far on each group, by the group's name (torch:
    `ProcessGroup._get_sequence_number_for_group`); ranks that disagree about it cannot meet again. `severed` says that
    connections of the groups were cut to free the rank.
    """

    grouped: bool = True
    sequences: dict[str, int] = msgspec.field(default_factory=dict)
    severed: bool = False


class RemoteError(Part):
    """An exception of a rank as data: what Python would have shown, and where in the cell it came from.

    `line` is the line of the notebook's gutter (the magic line is line 1), 0 where the error has none. `traceback` has
    the lines as IPython formats them, with ANSI colours. Of the kind `communication` `collective` is the call of
    torch.distributed that it came from, where one can be named. Of the kind `exit` is a `sys.exit` that was not with
    code 0: `message` is then its argument as Python writes it, and there is no traceback.
    """

    name: str
    message: str
    traceback: list[str]
    line: int = 0
    kind: ErrorKind = "exception"
    collective: str = ""


class Frame(Part):
    """One frame of a stack: `where` is a file or `cell`."""

    where: str
    line: int
    function: str


class Whereabouts(Part):
    """Where the main thread of a rank is.

    `line` is the line of the cell (0: in none) and `function` what it called there: `load_data (data.py:12)`.
    `collective` is the call of torch.distributed that it is in now, empty where it is in none, and `group` names the
    process group of that call. `sequence` counts the collectives issued on that group, or on the default group (torch:
    `ProcessGroup._get_sequence_number_for_group`). `members` are the ranks that must enter the call, where these are
    not all. `since` says for how many seconds the rank has been seen there without a move.
    """

    line: int = 0
    function: str = ""
    collective: str = ""
    group: str = ""
    sequence: int = 0
    members: list[int] = msgspec.field(default_factory=list)
    since: float = 0.0

    @property
    def behind(self) -> int:
        """How many collectives of the group it has left, or has begun asynchronously: these go on by themselves."""
        return self.sequence - bool(self.collective and not self.collective.endswith(ASYNC))


class RankStack(Part):
    """Where one rank is, and what it is doing there.

    `state` is that of the session's table; `exited` where `sys.exit` ended the cell; in a stall `elsewhere` where the
    rank does not run the cell. `silent` is why the rank could not say more, a phrase; then `where` is None. `frames`
    are the innermost frames, innermost first.
    """

    rank: int
    state: str
    where: Whereabouts | None = None
    frames: list[Frame] = msgspec.field(default_factory=list)
    silent: str = ""


class RankStatus(Part):
    """One row of a session's status.

    While it runs a cell, `line` (0: in none) and `function` are where it was last seen, `cpu` is in percent of one core
    and `memory` in bytes, None where it is not known.
    """

    rank: int
    node_rank: int
    state: str
    pid: int
    run: str | None
    device: str
    line: int = 0
    function: str = ""
    cpu: int | None = None
    memory: int | None = None


class RunKnown(Part):
    """A run whose end no client has shown yet, or that goes on.

    `cell` is the notebook's execution count. `shown` is the number of the newest record that a client has shown of it,
    and `rest` the unfinished lines that this client held then: rank, stream, text.
    """

    run: str
    cell: int
    ended: bool
    shown: int
    rest: list[tuple[int, Stream, str]]


class Place(Part):
    """A rank with what its worker must be told at its start; `device` is `cpu` or `cuda:<local rank>`.

    `anew` says that the rank has run before, and had variables.
    """

    rank: int
    environment: dict[str, str]
    device: str
    anew: bool = False


class Retries(Part):
    """How often a run whose ranks were lost is tried again, in the terms of `modal.Retries`; delays in seconds.

    `on_error` says that a run whose cell raised is tried again too.
    """

    max_retries: int
    initial_delay: float = 1.0
    backoff_coefficient: float = 2.0
    max_delay: float = 60.0
    on_error: bool = False


class Stage(Part):
    """A stage on a session's way through its first cell.

    `began` is in seconds since 1970, `seconds` is None while it goes on. `node` is -1 where no node is meant.
    """

    name: StageName
    began: float
    seconds: float | None = None
    node: int = -1


class Alive(Part):
    """A worker that is there, and the run that it still owes the end of (empty: none)."""

    rank: int
    pid: int
    launched: bool
    run: str


class Store(Part):
    """Where the store of the process groups listens, and the prefix that keeps this session's keys apart."""

    host: str
    port: int
    prefix: str
