"""What a session was asked to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modal_magic import protocol as p
from modal_magic.topology import Topology

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a session was asked to be. `accelerated`: its ranks want GPUs; `grouped`: they form a process group.

    `lease`, `idle` and `max_lifetime` are in seconds, as `Lease` has them. Nodes that have not come after
    `patience` (None: they may take as long as they like) end the session; with patience it also waits so long for
    nodes that return when none is left.
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
