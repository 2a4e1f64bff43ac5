"""No process stays behind: groups are killed whole, and what escaped its group is adopted and ended (Linux)."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import sys
from pathlib import Path

__all__ = ["adopt", "die_with", "kill_group", "kill_process", "kill_strays"]

PR_SET_CHILD_SUBREAPER = 36
F_SETSIG = 10


def adopt() -> None:
    """Become the parent of every descendant whose own parent ends (prctl(2), PR_SET_CHILD_SUBREAPER; Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_process(pid: int) -> None:
    """Kill a child that is not yet reaped, and all that it started and that stayed in its group.

    One of another user, as `sudo` makes them, is not ours to kill.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    kill_group(pid)


def kill_group(pid: int) -> None:
    """Kill what is left of the group that a process led; the process itself may be reaped already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def kill_strays(known: set[int]) -> None:
    """Kill the children of this process that are not `known` and not of the session of one that is, with all of theirs.

    They came here when the process that made them ended; what a living worker has left in the background is its own.
    """
    for pid in _children(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            if pid not in known and os.getsid(pid) not in known:
                _kill_tree(pid)


def _kill_tree(pid: int) -> None:
    """Kill a process and all that descend from it, in whatever groups and sessions they are."""
    children = _children(pid)
    kill_process(pid)
    for child in children:
        _kill_tree(child)


def _children(pid: int) -> list[int]:
    """The children of a process; none where the system does not tell."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def die_with(lifeline: socket.socket) -> None:
    """Have the system kill this process and its group once the other end of `lifeline` is closed, whatever they do.

    Linux: signal-driven input with F_SETSIG (fcntl(2)), which needs no cooperation of Python. Nothing is ever written
    to a lifeline. Elsewhere the control channel's end is what ends a worker.
    """
    if sys.platform != "linux":
        return
    descriptor = lifeline.fileno()
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(descriptor, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_ASYNC)
