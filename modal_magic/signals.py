"""The handler of a signal, set for each cell: `signal.signal`, without what that does to name the handler before."""

from __future__ import annotations

from _signal import signal as set_handler  # type: ignore[import-not-found]

__all__ = ["set_handler"]
