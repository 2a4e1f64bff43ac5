"""The store at which ranks meet: served by the gateway, and where they gather before torch's own rendezvous."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed import distributed_c10d as c10d

from modal_magic.frameworks.base import Superseded
from modal_magic.frameworks.names import ask_as_configured, ask_files_alone
from modal_magic.protocol import Store

__all__ = ["gather_ranks", "open_store", "reach_store"]

GATHER_SECONDS = (0.0005, 0.05)
"""The first and the longest pause between two looks at the door: most ranks come at once, some wait for long."""


@contextlib.contextmanager
def open_store(host: str, session: str) -> Iterator[Store]:
    """A TCPStore on a free port of `host` alone, served by threads of this process, which asks no name server then."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ask_files_alone()
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        server = TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
            timeout=timedelta(minutes=30),
        )
        # A name that no other session has, also one that comes back under the same name.
        try:
            yield Store(host, port, f"{session}-{time.time_ns():x}")
        finally:
            del server
            ask_as_configured()


def reach_store(store: Store, prefix: str) -> c10d.Store:
    """The gateway's store, as those see it that use this prefix."""
    keeper = TCPStore(store.host, store.port, is_master=False, wait_for_workers=False)
    return c10d.PrefixStore(prefix, keeper)


def gather_ranks(store: c10d.Store, size: int, is_superseded: Callable[[], bool]) -> None:
    """Wait for all ranks in Python: the last to come opens the door. Raises Superseded."""
    if store.add("arrived", 1) >= size:
        store.set("open", "1")
    pause, longest = GATHER_SECONDS
    while not store.check(["open"]):  # a wait in C++ that was in vain looks up its peer's name, which takes seconds
        if is_superseded():
            raise Superseded
        time.sleep(pause)
        pause = min(1.25 * pause, longest)
    if is_superseded():
        raise Superseded  # the others open the door also for one that has left it since
