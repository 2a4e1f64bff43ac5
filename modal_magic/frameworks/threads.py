"""Whether threads of C++ have come to rest, so that they can be joined while the GIL is held (Linux)."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

__all__ = ["let_threads_finish"]

PAUSE_SECONDS = 0.001
LONGEST_SECONDS = 0.2
"""How long threads are waited for that do not come to rest: they have work of their own, and do not want the GIL."""


def _all_asleep(name: str) -> bool:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            before, _, after = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")
            if before.endswith(f"({name}") and after.split()[0] != "S":
                return False
    return True


def let_threads_finish(name: str) -> None:
    """Return once the threads of this name sleep, and have slept though they could have had the GIL.

    One that waits for the GIL sleeps too, but not beyond a pause in which nobody holds it.
    """
    until = time.monotonic() + LONGEST_SECONDS
    rested = 0
    while rested < 2 and time.monotonic() < until:
        time.sleep(PAUSE_SECONDS)
        rested = rested + 1 if not os.path.isdir("/proc/self/task") or _all_asleep(name) else 0
