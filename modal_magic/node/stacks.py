"""Where a rank is right now: the frames of its main thread, taken by another thread without stopping it."""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType

import modal_magic
from modal_magic.frameworks.base import Framework
from modal_magic.frameworks.collectives import BACKWARD
from modal_magic.node.failure import cell_line, is_cell
from modal_magic.protocol import Frame, Whereabouts

__all__ = ["Sampler"]

OWN = (os.path.dirname(modal_magic.__file__) + os.sep, "<frozen ")
HIDDEN = ("/IPython/core/", "/torch/distributed/c10d_logger.py")
LIBRARIES = ("/site-packages/", "/dist-packages/", os.path.dirname(os.__file__) + "/")
IDLE_SHARE = 0.05
"""A thread that has used less of its time than this was waiting."""


@dataclass(slots=True)
class Sampler:
    """Takes samples of where the main thread is. A sample costs some 30 µs, in which that thread cannot run Python.

    A class because a sample says since when the rank has been there. `thread` is the main thread's ident.
    """

    framework: Framework
    thread: int
    key: tuple[object, ...] = ()
    since: float = 0.0
    taken: float = 0.0
    used: float = 0.0

    def take(self, run: str, depth: int) -> tuple[Whereabouts, list[Frame]]:
        """Where the main thread is in this run (empty: in none), and up to `depth` frames of it, innermost first."""
        with _uncollected():
            stack = list(_stack(self.thread))
            collective = self.framework.collective([frame for frame, _ in stack])
        inside = list(_inside_cell(stack)) if run else []
        line = cell_line((frame.f_code.co_filename, number) for frame, number in inside)
        key = (run, line, collective.name, collective.group, collective.sequence)
        where = Whereabouts(
            line,
            _called(inside, in_collective=bool(collective.name)),
            collective.name,
            collective.group,
            collective.sequence,
            list(collective.members),
            self._seconds_there(key, computes=collective.name == BACKWARD),
        )
        shown = [_described(frame, number, inside) for frame, number in reversed(inside[-depth:])] if depth else []
        return where, shown

    def _seconds_there(self, key: tuple[object, ...], computes: bool) -> float:
        """For how long samples have found the thread here; where it may also compute, for how long it has not."""
        now, used = time.monotonic(), _processor_seconds(self.thread) if computes else 0.0
        moved = computes and used - self.used > IDLE_SHARE * (now - self.taken)
        if key != self.key or moved:
            self.key, self.since = key, now
        self.taken, self.used = now, used
        return now - self.since


def _processor_seconds(thread: int) -> float:
    """How much time of a processor a thread of this process has had. Where the system does not tell, it never waits."""
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    except (AttributeError, OSError):
        return time.monotonic()


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage, for the time of a look at the frames of a thread that goes on.

    Python 3.11 may collect whatever is made, and so in the middle of making a frame that can be looked at. A finalizer
    that lets that thread run, as those of torch do, has the frame end meanwhile, which is a crash; or, where the frames
    of all threads are asked for, both wait for a lock of the other for ever (python/cpython#106883). From 3.12 on
    Python collects between two steps of a thread alone. By the threshold: code may ask whether garbage is collected.
    """
    before = gc.get_threshold()
    if sys.version_info < (3, 12):
        gc.set_threshold(0)
    try:
        yield
    finally:
        if sys.version_info < (3, 12):
            gc.set_threshold(*before)


def _stack(thread: int) -> Iterator[tuple[FrameType, int]]:
    """The frames of a thread with their lines, outermost first, and what a cell's `await` waits in."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(thread)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    for frame in reversed(frames):
        yield frame, frame.f_lineno or 0
    if not any(is_cell(frame.f_code.co_filename) for frame in frames):
        for frame in frames:
            if frame.f_code.co_name == "_run_coroutine" and frame.f_code.co_filename.startswith(OWN):
                coroutine = frame.f_locals.get("coroutine")
                while inspect.iscoroutine(coroutine) and coroutine.cr_frame is not None:
                    yield coroutine.cr_frame, coroutine.cr_frame.f_lineno or 0
                    coroutine = coroutine.cr_await


def _inside_cell(stack: Sequence[tuple[FrameType, int]]) -> Iterator[tuple[FrameType, int]]:
    """The part of a stack that a user would know: from the running cell inwards, without what runs the cell."""
    within = False
    for frame, number in stack:
        file = frame.f_code.co_filename
        within = within or is_cell(file)
        if within and not file.startswith(OWN) and not any(part in file for part in HIDDEN):
            yield frame, number


def _called(inside: Sequence[tuple[FrameType, int]], in_collective: bool) -> str:
    """The innermost function of the user's own, else what the cell itself has called: `load_data (data.py:12)`."""
    own = [entry for entry in inside if not _of_library(entry[0]) and not entry[0].f_code.co_name.startswith("<")]
    called = [entry for entry in inside if _of_library(entry[0])] if not in_collective else []
    if not own and not called:
        return ""
    found = _described(*(own[-1] if own else called[0]), inside)
    return found.function + ("" if found.where == "cell" else f" ({os.path.basename(found.where)}:{found.line})")


def _of_library(frame: FrameType) -> bool:
    return any(part in frame.f_code.co_filename for part in LIBRARIES)


def _described(frame: FrameType, number: int, inside: Sequence[tuple[FrameType, int]]) -> Frame:
    """A frame as data. Of the cells the running one is `cell`; an earlier one has its number, as in `In[3]`."""
    file = frame.f_code.co_filename
    if is_cell(file):
        file = "cell" if file == inside[0][0].f_code.co_filename else file.removeprefix("Cell ")
    return Frame(file, number, frame.f_code.co_name)
