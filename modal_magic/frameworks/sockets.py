"""Which connections belong to the process groups, so that exactly these can be cut (Linux)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["SocketBook"]


def _open_sockets() -> dict[str, int]:
    """The sockets of this process: descriptor by inode, which is what stays the same."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{entry}")
            if target.startswith("socket:"):
                found[target] = int(entry)
    return found


@dataclass(slots=True)
class SocketBook:
    """The inodes of the sockets that torch opened while it was forming groups."""

    inodes: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Note the sockets that are opened inside; those of a failed attempt too."""
        if not os.path.isdir("/proc/self/fd"):
            yield
            return
        before = _open_sockets()
        try:
            yield
        finally:
            self.inodes.update(_open_sockets().keys() - before.keys())

    def forget(self) -> None:
        """The groups are gone."""
        self.inodes.clear()

    def shut_down(self) -> None:
        """Cut every *connected* socket in the book. A listener must be spared: shutting one aborts the process."""
        if not self.inodes:
            return
        for inode, descriptor in _open_sockets().items():
            if inode in self.inodes:
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                    connection.getpeername()
                    connection.shutdown(socket.SHUT_RDWR)
