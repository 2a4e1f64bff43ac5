"""What a gateway, its agents and their workers tell each other to do, and what an agent reports."""

from __future__ import annotations

import msgspec

from modal_magic.protocol.message import Message
from modal_magic.protocol.node_events import NodeEvent
from modal_magic.protocol.parts import Alive, Place, Stage, Store

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
    """Leave this attempt of the run, begun or not."""

    run: str
    attempt: int = 1


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


class Speak(Message):
    """Say what you have left to go with your next word: that may be long in coming."""


Task = Execute | Interrupt | Regroup | TakeStack | Taken | Speak | Exit


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
    that this one takes the place of. `stages` are those of the node's own start.
    """

    version: int
    node_rank: int
    pid: int
    address: str
    port: int
    accelerators: int
    cores: int
    workers: list[Alive] = msgspec.field(default_factory=list)
    predecessor: str = ""
    stages: list[Stage] = msgspec.field(default_factory=list)


class Happened(Message):
    """Events of the node, oldest first."""

    events: list[NodeEvent]


class Left(Message):
    """The last word of an agent. Where its node `returns`, another one of this number is on its way."""

    reason: str
    returns: bool = False


Report = Joined | Happened | Left | Beat
