"""What a cell needs to go on where it was: a folder for checkpoints, and a call before its node is taken away."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from modal_magic.this_rank import rank_shell

__all__ = ["CHECKPOINTS", "checkpoint_folder", "on_preempt"]

CHECKPOINTS = "MODAL_MAGIC_CHECKPOINT_DIR"
"""The variable that says to each rank where the session has its checkpoints."""

Hook = TypeVar("Hook", bound=Callable[[], object])


def checkpoint_folder() -> Path:
    """The folder that outlives the session's ranks; on a rank it is made. Off a rank it is `checkpoints`, here."""
    given = os.environ.get(CHECKPOINTS)
    if given is None:
        return Path("checkpoints")
    folder = Path(given)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def on_preempt(hook: Hook) -> Hook:
    """Have a function without arguments called when this rank's node is taken away, after the cell was interrupted.

    Modal gives a container about 30 s, of which 20 are for all functions of a rank. One of the same name replaces the
    one before. Usable as a decorator; off a rank this does nothing.
    """
    shell = rank_shell()
    if shell is not None:
        shell.before_preemption[getattr(hook, "__qualname__", repr(hook))] = hook
    return hook
