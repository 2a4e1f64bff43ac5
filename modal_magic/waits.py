"""Waits of the main thread that an interrupt ends, whichever thread of the process the system tells of the signal."""

from __future__ import annotations

import math
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["ended", "result_of", "stepwise", "waited"]

Result = TypeVar("Result")

STEP_SECONDS = 0.1
"""The longest wait that no interrupt ends."""


def stepwise(attempt: Callable[[float], bool], seconds: float | None) -> bool:
    """Wait so long (None: for any time) in steps, and say whether an attempt succeeded; each is told for how long.

    Python runs a signal's handler in the main thread, which the signal wakes only if the system has delivered it there.
    Linux, too, may choose another thread, and on Windows a lock never hears it: it is heard between two steps.
    """
    until = math.inf if seconds is None else time.monotonic() + seconds
    while not attempt(max(0.0, min(STEP_SECONDS, until - time.monotonic()))):
        if time.monotonic() >= until:
            return False
    return True


def waited(event: threading.Event, seconds: float | None) -> bool:
    """Wait so long (None: for any time) for an event, and say whether it came."""
    return stepwise(event.wait, seconds)


def result_of(future: Future[Result], seconds: float | None = None) -> Result:
    """The result of a future, or its error, for which this waits so long. Raises TimeoutError after that."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not waited(done, seconds):
        raise TimeoutError
    return future.result()


def ended(process: subprocess.Popen[bytes], seconds: float | None = None) -> bool:
    """Wait so long (None: for any time) for the end of a process, and say whether it has ended."""

    def attempt(step: float) -> bool:
        try:
            process.wait(step)
        except subprocess.TimeoutExpired:
            return False
        return True

    return stepwise(attempt, seconds)
