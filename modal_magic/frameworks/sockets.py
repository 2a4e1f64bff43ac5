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
    """The inodes of the sockets that torch opened while it was forming groups.

    `before` has those that were open when the recording that goes on began: what has been opened since can be cut too,
    for one rank may wait in there for another.
    """

    inodes: set[str] = field(default_factory=set)
    before: set[str] | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Note the sockets that are opened inside; those of a failed attempt too."""
        if not os.path.isdir("/proc/self/fd"):
            yield
            return
        outer, before = self.before, set(_open_sockets())
        self.before = before if outer is None else outer
        try:
            yield
        finally:
            self.inodes.update(_open_sockets().keys() - before)
            self.before = outer

    def forget(self) -> None:
        """The groups are gone."""
        self.inodes.clear()

    def shut_down(self) -> None:
        """Cut every *connected* socket in the book. A listener must be spared: shutting one aborts the process."""
        before = self.before
        if not self.inodes and before is None:
            return
        for inode, descriptor in _open_sockets().items():
            if inode in self.inodes or (before is not None and inode not in before):
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                    connection.getpeername()
                    connection.shutdown(socket.SHUT_RDWR)
