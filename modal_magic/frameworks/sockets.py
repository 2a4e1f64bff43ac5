"""Which connections belong to the process groups, so that exactly these can be cut (Linux)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass, field

__all__ = ["Recording", "SocketBook"]


def _open_sockets() -> dict[str, int]:
    """The sockets of this process: descriptor by inode, which is what stays the same. None where it cannot be seen."""
    found = {}
    for entry in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
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

    def recording(self) -> Recording:
        """Note the sockets that are opened inside; those of a failed attempt too."""
        return Recording(self)

    def resume(self) -> None:
        """No recording goes on, as between two cells. An interrupt leaves one open that it catches at its end.

        It would have what a cell opens later for itself taken for a connection of the groups.
        """
        if self.before is not None:
            self.inodes.update(_open_sockets().keys() - self.before)
            self.before = None

    def forget(self) -> None:
        """The groups are gone. What is still open of them is cut: work that was left behind in one waits no longer."""
        self.cut(self.inodes)
        self.inodes.clear()

    def shut_down(self) -> None:
        """Cut every connection in the book, and what has been opened since the recording that goes on began."""
        before = self.before  # other threads call this, and the main thread may end its recording meanwhile
        new = set() if before is None else _open_sockets().keys() - before
        self.cut(self.inodes | new)

    def cut(self, inodes: Collection[str]) -> None:
        """Cut those that are connected, and have the others hear of nobody any more.

        What is no stream is spared: a question for a name that is cut is asked in vain, again and again, for seconds.
        The main thread opens and closes files meanwhile, so what has a number is looked at once more.
        """
        for inode, descriptor in _open_sockets().items() if inodes else ():
            if inode in inodes:
                with contextlib.suppress(OSError):
                    copy = os.dup(descriptor)
                    if f"socket:[{os.fstat(copy).st_ino}]" != inode:
                        os.close(copy)
                        continue
                    with socket.socket(fileno=copy) as found:
                        if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                            _deafen(descriptor, inode)
                        elif found.type == socket.SOCK_STREAM:
                            found.getpeername()
                            found.shutdown(socket.SHUT_RDWR)


def _deafen(descriptor: int, inode: str) -> None:
    """Put a listening socket that nobody can reach in the place of one that listens.

    To shut that one would abort the process. And gloo (torch 2.13) crashes when a rank that is late still connects to
    it for a group that is being let go of: it looks for who waits for that rank, and that is gone already.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as deaf:
        deaf.bind("")  # a name that the system draws
        deaf.listen()
        if f"socket:[{os.fstat(descriptor).st_ino}]" == inode:  # nobody else has this number by now
            os.dup2(deaf.fileno(), descriptor, inheritable=False)


class Recording:
    """What `SocketBook.recording` gives. Not made by `contextlib`: a generator that an interrupt keeps from its end
    comes to it as garbage, at any time later, and takes all that was opened meanwhile for its own.
    """

    def __init__(self, book: SocketBook) -> None:
        self.book, self.outer = book, book.before

    def __enter__(self) -> None:
        self.before = set(_open_sockets())
        self.book.before = self.before if self.outer is None else self.outer

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self.book.inodes.update(_open_sockets().keys() - self.before)
        self.book.before = self.outer
        if error is not None:  # the group that was to be is gone, and who is late must not find what is left of it
            self.book.cut(_open_sockets().keys() - self.before)
