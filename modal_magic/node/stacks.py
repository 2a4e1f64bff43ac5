"""Where a rank is right now: the frames of its main thread, taken by another thread without stopping it."""

from __future__ import annotations

import sys
import threading
import traceback

from modal_magic.node.failure import cell_line, is_cell
from modal_magic.protocol import Frame, StackTaken

__all__ = ["take_stack"]

DEPTH = 12
OWN_ROOMS = ("/modal_magic/node/", "/IPython/core/")


def take_stack(rank: int, request: str, run: str, collective: tuple[str, int]) -> StackTaken:
    """The innermost frames of the main thread, innermost first, without this package's own."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    entries = [
        (entry.filename, entry.lineno or 0, entry.name)
        for entry in traceback.extract_stack(frame)
        if not any(room in entry.filename for room in OWN_ROOMS)
    ]
    frames = [Frame("cell" if is_cell(file) else file, line, name) for file, line, name in reversed(entries)]
    line = cell_line((file, line) for file, line, _ in entries)
    return StackTaken(rank, request, "running" if run else "idle", line, frames[:DEPTH], *collective)
