"""Waiting for what no message tells, and a process that stands still meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["held", "seen", "until"]


def seen(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait until something is so, as another process will have it; say whether it came to be in time."""
    latest = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > latest:
            return False
        time.sleep(0.02)
    return True


def until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so. Fails where it does not come to be."""
    assert seen(holds, seconds), f"it did not come to be in {seconds:g} s"


@contextmanager
def held(pid: int) -> Iterator[None]:
    """A process that is stopped for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
