"""Every message that crosses a process, and how it is put into bytes.

Messages are msgspec structs in msgpack: arrays whose first element names the type, so that a decoder accepts a closed
union and nothing else. No message carries code other than the text of a cell, and none is ever unpickled.

    client  ──Request──▶  gateway  ──Order──▶  agent  ──Task──▶   worker
            ◀──Reply───            ◀──Report──        ◀──Event──
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, Literal, dataclass_transform

import msgspec

VERSION = 3
"""Rises with every change that an older peer could not read; peers of different versions refuse each other."""

BEAT_SECONDS = 0.25
"""How often each end of a link says that it lives, when it has nothing else to say."""

SILENCE_SECONDS = 1.5
"""After this long without a word the other end of a link counts as gone."""

DEAD_MAN_SECONDS = 15.0
"""An agent that hears nothing from its gateway for so long ends its node: nobody could stop it any more."""

ANSWER_SECONDS = 0.1
"""How long a rank has to say where it is, before its agent says that it does not."""

MESSAGE_BYTES = 256 * 1024 * 1024
"""The largest frame that any socket accepts."""

Stream = Literal["stdout", "stderr"]
RunStatus = Literal["done", "failed", "interrupted"]
ErrorKind = Literal["exception", "communication", "exit"]


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Root of all messages: immutable, written as `[type, field, …]`."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Part(msgspec.Struct, frozen=True, array_like=True):
    """Root of what messages are made of: as a message, but with no type of its own on the wire."""


# ---- parts -----------------------------------------------------------------------------------------------------------


class Health(Part):
    """What a rank knows of its process groups when its cell ends.

    `sequences` has the number of collectives issued so far on each group, by the group's name (torch:
    `ProcessGroup._get_sequence_number_for_group`); ranks that disagree about it cannot meet again. `severed` says that
    connections of the groups were cut to free the rank.
    """

    grouped: bool = True
    sequences: dict[str, int] = {}
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
    members: list[int] = []
    since: float = 0.0


class RankStack(Part):
    """Where one rank is, and what it is doing there.

    `state` is that of the session's table; `exited` where `sys.exit` ended the cell; in a stall `elsewhere` where the
    rank does not run the cell. `silent` is why the rank could
    not say more, a phrase; then `where` is None. `frames` are the innermost frames, innermost first.
    """

    rank: int
    state: str
    where: Whereabouts | None = None
    frames: list[Frame] = []
    silent: str = ""


class RankStatus(Part):
    """One row of a session's status."""

    rank: int
    node_rank: int
    state: str
    pid: int
    run: str | None
    device: str


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


# ---- events: what happened, in the order in which the gateway learned it ---------------------------------------------


class Launched(Message):
    """The worker of a rank is up."""

    rank: int
    pid: int


class Grouped(Message):
    """A rank is in the process group of this generation and free for a cell."""

    rank: int
    generation: int
    device: str
    seconds: float
    health: Health = Health()


class GroupFailed(Message):
    """A rank could not join the process group of this generation."""

    rank: int
    generation: int
    error: RemoteError


class Submitted(Message):
    """A run was sent to its ranks: from here on each of them owes an end, also one that has not begun."""

    run: str
    ranks: list[int]
    cell: int
    source: str
    attempt: int = 1


class Started(Message):
    """A rank began the cell."""

    rank: int
    run: str


class Output(Message):
    """Text that a rank, or a process that it started, wrote to a stream; a chunk need not end at a line's end."""

    rank: int
    run: str
    stream: Stream
    text: str


class Display(Message):
    """A rich output. `kind` tells a display from the cell's last expression (`result`), an update and a clearing."""

    rank: int
    run: str
    kind: Literal["display", "update", "result", "clear"]
    data: dict[str, Any]
    metadata: dict[str, Any]
    display_id: str | None = None


class Progress(Message):
    """How far a rank is with one of its loops; `total` is None where the length is unknown.

    `bar` numbers the loops of a run in the order of their beginning; 0 is what `modal_magic.report` moves. `rate` is in
    steps a second, None where there is none yet.
    """

    rank: int
    run: str
    bar: int
    label: str
    current: float
    total: float | None
    ended: bool
    rate: float | None = None


class Metric(Message):
    """A number that a rank reported under a name, at a step."""

    rank: int
    run: str
    name: str
    value: float
    step: float


class Curve(Message):
    """The course of a metric so far, for a client that was not there; every `stride`-th value was kept."""

    rank: int
    run: str
    name: str
    steps: list[float]
    values: list[float]
    stride: int


class Finished(Message):
    """A rank came to the end of the cell; `exit_code` is 0 when it was `sys.exit` that ended it."""

    rank: int
    run: str
    seconds: float
    health: Health
    exit_code: int | None = None


class Failed(Message):
    """The cell raised on a rank; `exit_code` is set when what it raised was `sys.exit` with a code other than 0."""

    rank: int
    run: str
    seconds: float
    health: Health
    error: RemoteError
    exit_code: int | None = None


class Interrupted(Message):
    """A rank left the cell because it was told to; `where` names the collective or the line it was in."""

    rank: int
    run: str
    seconds: float
    health: Health
    where: str


class Lost(Message):
    """The process of a rank is gone and its variables with it. `cause` is a phrase: `was killed by SIGKILL`.

    `forced` says that its agent killed it, because it did not leave a run that it was told to leave; `replaced`, that a
    fresh process takes its place.
    """

    rank: int
    cause: str
    forced: bool = False
    replaced: bool = True


class Returned(Message):
    """A rank that was counted as lost with its node is there again, with its variables."""

    rank: int


class StackTaken(Message):
    """Where a rank is right now; its agent says why where it cannot answer (`silent`, as in `RankStack`)."""

    rank: int
    request: str
    where: Whereabouts | None
    frames: list[Frame]
    silent: str = ""


class Stalled(Message):
    """Ranks of a run have waited in a collective for others that are not there; all of them as they are now.

    `waiting` are the ranks that wait, `missing` those that they wait for: these may themselves wait, for others.
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
    """The text of a run has reached its limit: from here on it goes to the log alone."""

    run: str


class RunEnded(Message):
    """A run is over on every rank. `culprits` are the ranks that failed first, most telling cause first.

    `withheld` counts the bytes of output that were kept in the log but not sent to clients. `reason` says why a run was
    interrupted that nobody has interrupted.
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


class Notice(Message):
    """A sentence for the person at the notebook."""

    text: str


RankEvent = Launched | Grouped | GroupFailed | Started | Finished | Failed | Interrupted | Lost
WorkerEvent = (
    Launched
    | Grouped
    | GroupFailed
    | Started
    | Output
    | Display
    | Progress
    | Metric
    | Finished
    | Failed
    | Interrupted
    | StackTaken
)
NodeEvent = WorkerEvent | Lost | Notice
Event = NodeEvent | Returned | Submitted | Stalled | RunQueued | RunRetried | OutputCut | RunEnded | SessionChanged


LiveEvent = Progress | Metric | Curve
"""What is told often and is worth nothing when it is old: not in the log; a client is sent the newest of it."""


class Record(Part):
    """One event in the log: its number (from 1, without gaps) and when the gateway learned it (seconds since 1970)."""

    sequence: int
    time: float
    event: Event


# ---- tasks: agent → worker ---------------------------------------------------------------------------------------


class Execute(Message):
    """Run a cell. `cell` is the notebook's execution count, `first_line` the gutter line of the source's first line.

    `attempt` is 1 at the first try.
    """

    run: str
    source: str
    cell: int
    first_line: int
    attempt: int = 1


class Interrupt(Message):
    """Leave the run, begun or not."""

    run: str


class Regroup(Message):
    """Leave the process group you have and join the one of this generation; with nobody where not `together`."""

    generation: int
    together: bool = True


class TakeStack(Message):
    """Say where you are, with so many frames at most."""

    request: str
    depth: int


class Taken(Message):
    """What you displayed has its place behind what you wrote before: write on."""


class Exit(Message):
    """End: run what was registered for the exit of the interpreter, then leave.

    Where the node is `preempted`, what was registered for that comes first.
    """

    preempted: bool = False


Task = Execute | Interrupt | Regroup | TakeStack | Taken | Exit


# ---- orders and reports: gateway ⇄ agent -----------------------------------------------------------------------------


class Launch(Message):
    """Start workers for these places, which join the process group of this generation."""

    places: list[Place]
    generation: int
    store: Store | None


class Submit(Message):
    """Give these ranks of the node a cell to run."""

    ranks: list[int]
    task: Execute


class InterruptRanks(Message):
    """Free these ranks from the run: ask first, then by force."""

    ranks: list[int]
    run: str


class RegroupRanks(Message):
    """Have these ranks join the process group of a new generation, or be without one: some ranks will not come."""

    ranks: list[int]
    generation: int
    together: bool = True


class StackRanks(Message):
    """Ask these ranks where they are; each answers within `ANSWER_SECONDS`, or its agent does for it."""

    ranks: list[int]
    request: str
    depth: int


class KillRanks(Message):
    """End the processes of these ranks at once; each is then reported lost, with this cause."""

    ranks: list[int]
    cause: str = "was ended to be started anew"


class Shutdown(Message):
    """End all workers, then yourself."""


class Rejoin(Message):
    """You were counted as gone: say your first word again, and who lives."""


class Beat(Message):
    """I live."""


Order = Launch | Submit | InterruptRanks | RegroupRanks | StackRanks | KillRanks | Shutdown | Rejoin | Beat


class Joined(Message):
    """The first word of an agent. `address` and `port` are what MASTER_ADDR and MASTER_PORT become if it is node 0.

    `workers` are there already where the gateway had lost sight of the node. `predecessor` says how the agent ended
    that this one takes the place of.
    """

    version: int
    node_rank: int
    pid: int
    address: str
    port: int
    accelerators: int
    cores: int
    workers: list[Alive] = []
    predecessor: str = ""


class Happened(Message):
    """Events of the node, oldest first."""

    events: list[NodeEvent]


class Left(Message):
    """The last word of an agent."""

    reason: str


Report = Joined | Happened | Left | Beat


# ---- requests and replies: client ⇄ gateway --------------------------------------------------------------------------


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


Numbered = Run | InterruptRun | Restart | Stop | AskStatus | AskLog | AskStack
"""Requests that are carried out once and in order: each goes with its number, from 1, and is kept until it is taken."""
Request = Numbered | Attach | Shown | Detach | Beat


class Attached(Message):
    """The gateway's welcome: records follow after number `sequence`, and requests are taken after number `taken`.

    `runs` is for a new client: what goes on, or has ended with nobody there to show it. Of these it is sent all but the
    output that was shown before.
    """

    version: int
    session: str
    world_size: int
    sequence: int
    taken: int
    state: str
    runs: list[RunKnown]


class Live(Message):
    """What has changed of bars and metrics, and to a client that was not there all of it."""

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

# ---- bytes -----------------------------------------------------------------------------------------------------------

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
"""The bytes of one message."""

decode_event = msgspec.msgpack.Decoder(WorkerEvent).decode
decode_task = msgspec.msgpack.Decoder(Task).decode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
decode_record = msgspec.msgpack.Decoder(Record).decode
decode_records = msgspec.msgpack.Decoder(list[Record]).decode

NOISE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoders raise for bytes that are no message."""

_batch = struct.Struct(">cQQ")
_number = struct.Struct(">Q")


def numbered(number: int, request: Numbered) -> list[bytes]:
    """The frames of a request with its number. Any other message of a client goes as one frame."""
    return [_number.pack(number), encode(request)]


def number_of(frame: bytes) -> int:
    """The number of a request. Raises DecodeError for bytes that are none."""
    if len(frame) != _number.size:
        raise msgspec.DecodeError("not the number of a request")
    return int(_number.unpack(frame)[0])


def batch(after: int, last: int, encoded: Iterable[bytes]) -> list[bytes]:
    """The frames of a batch: records after number `after` up to `last`, some of which may be left out on purpose."""
    return [_batch.pack(b"R", after, last), join(encoded)]


def bounds_of(frame: bytes) -> tuple[int, int]:
    """The two numbers of a batch. Raises DecodeError for bytes that are no head of one."""
    if len(frame) != _batch.size or frame[:1] != b"R":
        raise msgspec.DecodeError("not the head of a batch of records")
    _, after, last = _batch.unpack(frame)
    return after, last


def join(encoded: Iterable[bytes]) -> bytes:
    """The msgpack array of messages that are bytes already (msgpack specification, format `array 32`)."""
    parts = list(encoded)
    return b"".join((b"\xdd", struct.pack(">I", len(parts)), *parts))
