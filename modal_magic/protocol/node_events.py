"""What happens on a node: what a worker says of itself, and what its agent says of it."""

from __future__ import annotations

from typing import Any, Literal

from modal_magic.protocol.message import Message
from modal_magic.protocol.parts import Frame, Health, RemoteError, Stream, Whereabouts


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


class Started(Message):
    """A rank began the cell. One whose cell ends at once says only that."""

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


class Usage(Message):
    """What a rank uses while it runs a cell, and where it is, as its agent has sampled it.

    `where` is None where it did not answer. `cpu` is in percent of one core, of the rank's own process since the
    sample before; `memory` is what that has in RAM, in bytes. Of its GPU, whoever uses that: `gpu` is the percent of
    time in which it computed, `gpu_memory` the bytes in use of `gpu_total`. None is what is not known.
    """

    rank: int
    run: str
    where: Whereabouts | None = None
    cpu: int | None = None
    memory: int | None = None
    gpu: int | None = None
    gpu_memory: int | None = None
    gpu_total: int | None = None


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


class StackTaken(Message):
    """Where a rank is right now; its agent says why where it cannot answer (`silent`, as in `RankStack`)."""

    rank: int
    request: str
    where: Whereabouts | None
    frames: list[Frame]
    silent: str = ""


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
NodeEvent = WorkerEvent | Usage | Lost | Notice
