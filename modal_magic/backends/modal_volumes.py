"""The volumes of a node, as its ranks have them committed and reloaded: by the entrypoint, whose mounts they are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from multiprocessing.connection import Client, Listener
from pathlib import Path

import modal

from modal_magic.resuming import VOLUMES

__all__ = ["commit_all", "offered"]


@contextlib.contextmanager
def offered(names: list[str], folder: str) -> Iterator[dict[str, str]]:
    """Answer the ranks of this node for the time of this context. Gives what their environment must have for that."""
    if not names:
        yield {VOLUMES: ""}
        return
    path = str(Path(folder) / "volumes")
    with Listener(path, "AF_UNIX") as door:
        thread = threading.Thread(target=_answer, args=(door, names), name="modal_magic volumes", daemon=True)
        thread.start()
        try:
            yield {VOLUMES: path}
        finally:
            with Client(path) as last:
                last.send_bytes(b"")
            thread.join()


def commit_all(names: list[str]) -> None:
    """Commit the volumes of these names. Raises what Modal's client does."""
    for name in names:
        modal.Volume.from_name(name).commit()


def _answer(door: Listener, names: list[str]) -> None:
    """Take one request after the other, until an empty one. The answer is what went wrong."""
    while True:
        with contextlib.suppress(OSError, EOFError), door.accept() as asking:
            verb = asking.recv_bytes()
            if not verb:
                return
            try:
                if verb == b"commit":
                    commit_all(names)
                else:
                    for name in names:
                        modal.Volume.from_name(name).reload()
                asking.send_bytes(b"")
            except Exception as error:  # the rank that has asked raises it
                asking.send_bytes(f"{type(error).__name__}: {error}".encode())
