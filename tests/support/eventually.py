"""Waiting for what no message tells, and a process that stands still meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["held", "seen", "until"]

T = TypeVar("T")


def seen(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait until something is so, as another process will have it; say whether it came to be in time."""
    latest = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < latest:
        time.sleep(0.02)
    return found


def until(look: Callable[[], T], seconds: float = 60.0) -> T:
    """Wait until there is something to see, and return it. Fails where it does not come to be."""
    latest = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < latest, f"it did not come to be in {seconds:g} s"
        time.sleep(0.02)
    return found


@contextmanager
def held(pid: int) -> Iterator[None]:
    """A process that is stopped for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
