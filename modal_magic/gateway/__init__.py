"""The gateway of a session: the one door to it, and the home of its truth. Only `serving` has sockets and a clock."""

from modal_magic.gateway.gateway import Gateway

__all__ = ["Gateway"]
