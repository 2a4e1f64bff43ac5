"""Waiting for sockets of ZeroMQ and for descriptors at once, with few system calls."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Mapping

import zmq

__all__ = ["READ", "WRITE", "Waiter", "readiness"]

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
"""What can be done with a descriptor or a socket, as bits. They are those of ZeroMQ too, whose own are slow to use:
each `&` with a member of an enumeration makes another."""


def readiness(socket: zmq.Socket[bytes]) -> int:
    """What can be done with a socket at once: `READ`, `WRITE` or both."""
    return int(socket.get(zmq.EVENTS))


class Waiter:
    """Waits until something can be done with one of its sockets or descriptors. Used by one thread.

    zmq.Poller does the same with a dozen system calls for each wait, most of what a small message costs its receiver.
    A class because the system's selector must be closed.
    """

    def __init__(self, *sockets: zmq.Socket[bytes]) -> None:
        # Not epoll, which forgets a descriptor that is closed, and does not know the next one of the same number.
        make: Callable[[], selectors.BaseSelector] = getattr(selectors, "PollSelector", selectors.SelectSelector)
        self._selector = make()
        self._sockets: dict[zmq.Socket[bytes], int] = {}
        self._wanted: dict[int, int] = {}
        for socket in sockets:
            self.add(socket)

    def add(self, socket: zmq.Socket[bytes]) -> None:
        """Wait for this socket too."""
        descriptor = self._sockets[socket] = int(socket.get(zmq.FD))
        self._selector.register(descriptor, READ)

    def remove(self, socket: zmq.Socket[bytes]) -> None:
        """Wait no longer for this socket, which is still open."""
        self._selector.unregister(self._sockets.pop(socket))

    def watch(self, wanted: Mapping[int, int]) -> None:
        """Wait for these descriptors: for each `READ`, `WRITE` or both. Those of an earlier call are let go."""
        if wanted == self._wanted:
            return
        for gone in self._wanted.keys() - wanted.keys():
            self._selector.unregister(gone)
        for descriptor, events in wanted.items() - self._wanted.items():
            change = self._selector.modify if descriptor in self._wanted else self._selector.register
            change(descriptor, events)
        self._wanted = dict(wanted)

    def wait(self, seconds: float, wanted: int = READ) -> dict[int, int]:
        """Wait so long at most, and say what can be done with which descriptor.

        It ends early when a socket can do one of the things in `wanted`: `readiness` says which, and may say that none
        can after all.
        """
        # A socket's own descriptor tells of changes alone, and only until somebody has asked the socket.
        if seconds > 0 and any(readiness(socket) & wanted for socket in self._sockets):
            seconds = 0
        ready = self._selector.select(max(0.0, seconds))
        return {key.fd: events for key, events in ready if key.fd in self._wanted}

    def close(self) -> None:
        """Close the selector, and no socket."""
        self._selector.close()
