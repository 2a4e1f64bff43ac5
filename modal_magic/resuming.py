"""What a cell needs to go on where it was: a folder for checkpoints, volumes, and a call before its node goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from modal_magic.errors import SessionError
from modal_magic.this_rank import rank_shell

__all__ = ["CHECKPOINTS", "VOLUMES", "checkpoint_folder", "commit", "on_preempt", "reload"]

CHECKPOINTS = "MODAL_MAGIC_CHECKPOINT_DIR"
"""The variable that says to each rank where the session has its checkpoints."""

VOLUMES = "MODAL_MAGIC_VOLUMES"
"""The variable that says to ranks on Modal who commits and reloads volumes for them; empty where there are none."""

Hook = TypeVar("Hook", bound=Callable[[], object])


def checkpoint_folder() -> Path:
    """The folder that outlives the session's ranks; on a rank it is made. Off a rank it is `checkpoints`, here."""
    given = os.environ.get(CHECKPOINTS)
    if given is None:
        return Path("checkpoints")
    folder = Path(given)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def commit() -> None:
    """Have Modal keep what was written on the volumes of this node. Off Modal files are kept anyway: it does nothing.

    A session commits at its end by itself. Raises SessionError where Modal does not do it, or there is no volume.
    """
    _ask(b"commit")


def reload() -> None:
    """Have the volumes of this node show what other containers have committed. Off Modal this does nothing.

    Raises SessionError where Modal does not do it, as while a file of a volume is open, or there is no volume.
    """
    _ask(b"reload")


def _ask(verb: bytes) -> None:
    path = os.environ.get(VOLUMES)
    if path is None:
        return
    if not path:
        raise SessionError(f"there is nothing to {verb.decode()}: --volume NAME:/path gives a session a volume")
    from multiprocessing.connection import Client

    with Client(path) as node:
        node.send_bytes(verb)
        trouble = node.recv_bytes().decode()
    if trouble:
        raise SessionError(f"the {verb.decode()} of this node's volumes failed: {trouble}")


def on_preempt(hook: Hook) -> Hook:
    """Have a function without arguments called when this rank's node is taken away, after the cell was interrupted.

    Modal gives a container about 30 s, of which 20 are for all functions of a rank. One of the same name replaces the
    one before. Usable as a decorator; off a rank this does nothing.
    """
    shell = rank_shell()
    if shell is not None:
        shell.before_preemption[getattr(hook, "__qualname__", repr(hook))] = hook
    return hook
