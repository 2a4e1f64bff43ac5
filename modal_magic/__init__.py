"""modal_magic: cells on N ranks, from a notebook.

`%load_ext modal_magic` gives the magics, `modal_magic.Session` the same from Python. Importing this module loads none
of torch, modal, IPython and ipywidgets.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from modal_magic._version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from IPython.core.interactiveshell import InteractiveShell

    from modal_magic.errors import GatewayBusy as GatewayBusy
    from modal_magic.errors import GatewayLost as GatewayLost
    from modal_magic.errors import ModalMagicError as ModalMagicError
    from modal_magic.errors import RankFailed as RankFailed
    from modal_magic.errors import RunInterrupted as RunInterrupted
    from modal_magic.errors import SessionClosed as SessionClosed
    from modal_magic.errors import SessionError as SessionError
    from modal_magic.errors import UsageError as UsageError
    from modal_magic.errors import VersionMismatch as VersionMismatch
    from modal_magic.protocol import Retries as Retries
    from modal_magic.reporting import progress as progress
    from modal_magic.reporting import report as report
    from modal_magic.resuming import commit as commit
    from modal_magic.resuming import on_preempt as on_preempt
    from modal_magic.resuming import reload as reload
    from modal_magic.sessions.run import Run as Run
    from modal_magic.sessions.session import Session as Session

    attempt: int
    checkpoint_dir: Path

_ROOMS = {
    "Retries": "protocol",
    "Run": "sessions.run",
    "Session": "sessions.session",
    "commit": "resuming",
    "on_preempt": "resuming",
    "progress": "reporting",
    "reload": "resuming",
    "report": "reporting",
    **dict.fromkeys(
        (
            "GatewayBusy",
            "GatewayLost",
            "ModalMagicError",
            "RankFailed",
            "RunInterrupted",
            "SessionClosed",
            "SessionError",
            "UsageError",
            "VersionMismatch",
        ),
        "errors",
    ),
}

__all__ = ["__version__", "attempt", "checkpoint_dir", "load_ipython_extension", "unload_ipython_extension", *_ROOMS]


def __getattr__(name: str) -> Any:
    """Load what is asked for, and only then (PEP 562).

    `attempt` counts the tries of a run (`--retries`) from 1; `checkpoint_dir` is a folder that outlives the ranks.
    """
    if name == "attempt":
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) + 1
    if name == "checkpoint_dir":
        return importlib.import_module("modal_magic.resuming").checkpoint_folder()
    if name in _ROOMS:
        return getattr(importlib.import_module(f"modal_magic.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext modal_magic`: register the magics, and prepare the first session in the background."""
    from modal_magic.notebook.extension import load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext modal_magic`: let go of everything; sessions live on until their lease is over."""
    from modal_magic.notebook.extension import unload

    unload(shell)
