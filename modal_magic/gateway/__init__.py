"""The gateway of a session: the one door to it, and the home of its truth. Only `serving` and `doors` have sockets."""

from modal_magic.gateway.gateway import Gateway

__all__ = ["Gateway"]
