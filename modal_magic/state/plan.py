"""What a session was asked to be, and what is known of each of its ranks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.state.tables import RankState
from modal_magic.topology import Topology

__all__ = ["Plan", "Rank"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a session was asked to be. `accelerated`: its ranks want GPUs; `grouped`: they form a process group.

    `lease`, `idle` and `max_lifetime` are in seconds, as `Lease` has them. Nodes that have not come after
    `patience` (None: they may take as long as they like) end the session.
    """

    topology: Topology
    grouped: bool
    accelerated: bool
    i6pn: bool
    environment: Mapping[str, str]
    store: p.Store | None
    lease: float
    idle: float | None = None
    max_lifetime: float | None = None
    patience: float | None = None


@dataclass(slots=True)
class Rank:
    """What the machine knows of one rank.

    `attempts` counts its starts since it last was of use, `used` says that it ever was. `health` is the last that it
    told of its process groups.
    """

    state: RankState = RankState.LAUNCHING
    pid: int = 0
    device: str = ""
    attempts: int = 0
    used: bool = False
    health: p.Health | None = None
    history: deque[str] = field(default_factory=lambda: deque(maxlen=8))
