"""What goes into the machine beside the events of ranks (stimuli), and what comes out of it (effects)."""

from __future__ import annotations

from dataclasses import dataclass

from modal_magic import protocol as p

__all__ = [
    "Answer",
    "Asked",
    "Attendance",
    "Effect",
    "End",
    "Fired",
    "Log",
    "NodeGone",
    "NodeJoined",
    "SetTimer",
    "Stimulus",
    "Tell",
]


@dataclass(frozen=True, slots=True)
class NodeJoined:
    """An agent has said its first word; `workers` and `predecessor` as in `Joined`."""

    node_rank: int
    address: str
    port: int
    accelerators: int
    cores: int
    pid: int = 0
    workers: tuple[p.Alive, ...] = ()
    predecessor: str = ""


@dataclass(frozen=True, slots=True)
class NodeGone:
    """An agent has left or fallen silent; `cause` is a phrase of the node: `stopped answering`.

    A silent one may come back, and its ranks with it. One that `returns` comes back with fresh ranks.
    """

    node_rank: int
    cause: str
    silent: bool = False
    returns: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A client asked for something, so many seconds after the start of the session."""

    client: bytes
    request: p.Run | p.InterruptRun | p.Restart | p.SetLimits | p.Stop
    uptime: float = 0.0


@dataclass(frozen=True, slots=True)
class Attendance:
    """So many clients are attached."""

    clients: int


@dataclass(frozen=True, slots=True)
class Fired:
    """A timer has run out."""

    timer: str


Stimulus = NodeJoined | NodeGone | Asked | Attendance | Fired | p.RankEvent


@dataclass(frozen=True, slots=True)
class Tell:
    """Send an order to a node."""

    node_rank: int
    order: p.Order


@dataclass(frozen=True, slots=True)
class Log:
    """Append an event to the log, and so send it to every client."""

    event: p.Event


@dataclass(frozen=True, slots=True)
class Answer:
    """Send a reply to one client."""

    client: bytes
    reply: p.Reply


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Fire a timer of this name once, after so many seconds; None takes it back."""

    timer: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class End:
    """Leave: the session is closed."""

    reason: str


Effect = Tell | Log | Answer | SetTimer | End
