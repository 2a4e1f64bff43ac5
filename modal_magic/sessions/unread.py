"""The end of a session that another version of modal_magic has started, whose gateway cannot be talked to."""

from __future__ import annotations

import os
import signal
import time

from modal_magic import registry
from modal_magic.errors import SessionError
from modal_magic.sessions.resources import Resources

__all__ = ["end_unread"]

CONTAINERS_SECONDS = 3.0
"""How long containers have before they are ended: nobody has told them that they may go."""
PROCESS_SECONDS = 10.0
LOOK_SECONDS = 0.05


def end_unread(name: str, resources: Resources) -> None:
    """End a session without a word to it, and forget it: its containers, or the process of its gateway.

    Raises SessionError where that cannot be done.
    """
    known = registry.outline(name)
    if known.meeting:
        resources.backend(known.backend).finish(name, CONTAINERS_SECONDS, known.meeting)
    elif known.born:
        _end_process(known.pid, known.born)
    else:
        raise SessionError(
            f"session {name!r} of another version of modal_magic cannot be told to end: its lease ends it, or at once "
            "`modal app stop`, with an app of `modal app list`"
        )
    registry.forget(name)


def _end_process(pid: int, born: float) -> None:
    until = time.monotonic() + PROCESS_SECONDS
    if registry.lives(pid, born):
        os.kill(pid, signal.SIGTERM)
    while registry.lives(pid, born):
        if time.monotonic() > until:
            raise SessionError(f"process {pid}, which is the gateway of a session, does not end: end that process")
        time.sleep(LOOK_SECONDS)
