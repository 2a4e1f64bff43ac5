"""A door of the gateway: where peers come in and where messages to them go out."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Door"]


class Door(Protocol):
    """Where peers come in and where their messages go out."""

    def send(self, identity: bytes, *frames: bytes) -> bool:
        """Send a message to a peer. False when it cannot take it now, or is away."""
        ...

    def waiting(self) -> bool:
        """Whether a message lies here that nobody has read."""
        ...
