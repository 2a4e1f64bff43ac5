"""How a rank is freed that waits for another: what it waits at is cut, and it is let be where it hears of it itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch.distributed import distributed_c10d as c10d

from modal_magic.frameworks.gloo_waits import GlooWaits
from modal_magic.frameworks.names import ask_as_configured, ask_files_alone
from modal_magic.frameworks.sockets import SocketBook
from modal_magic.frameworks.store import gather_ranks

__all__ = ["Freeing"]

PATIENT_CUTS = 2
"""So often a rank is let be that gathers. It does so in Python, and hears there that it is to leave, unless the network
is gone. And where its store's connection is cut, torch asks for the names of both ends to report that: where these are
not answered, it waits for seconds."""


@dataclass(slots=True)
class Freeing:
    """The connections of a rank's process groups, and its waits in gloo. `let_be` counts while it is `gathering`.

    While it reaches its store, and `asks_files_alone`, no name server is asked.
    """

    sockets: SocketBook = field(default_factory=SocketBook)
    waits: GlooWaits = field(default_factory=GlooWaits)
    gathering: bool = False
    let_be: int = 0
    asks_files_alone: bool = False

    def resume(self) -> None:
        """The main thread is in nothing of this: where an interrupt has kept it from an end, that is made good."""
        self.sockets.resume()
        if self.asks_files_alone:
            ask_as_configured()
            self.asks_files_alone = False

    def cut(self) -> bool:
        """Cut what the main thread may wait at for another rank. Whether that was done. Called by other threads."""
        if self.gathering and self.let_be < PATIENT_CUTS:
            self.let_be += 1
            return False
        self.sockets.shut_down()
        self.waits.call_off()
        return True

    def reach(self, open_one: Callable[[], c10d.Store]) -> c10d.Store:
        """The store that `open_one` connects to."""
        self.let_be = 0
        self.gathering = self.asks_files_alone = True
        try:
            ask_files_alone()
            return open_one()
        finally:
            self.gathering = False
            ask_as_configured()
            self.asks_files_alone = False

    def gather(self, store: c10d.Store, size: int, is_superseded: Callable[[], bool]) -> None:
        """Wait until so many ranks have come to a store. Raises Superseded."""
        self.let_be, self.gathering = 0, True
        try:
            gather_ranks(store, size, is_superseded)
        finally:
            self.gathering = False
