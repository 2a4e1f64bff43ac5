"""An exception of a rank as data: the traceback as IPython shows it, and the line of the cell it came from."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType, TracebackType

from modal_magic.frameworks.collectives import Collective
from modal_magic.protocol import ErrorKind, RemoteError

__all__ = [
    "CELL",
    "cell_line",
    "collective_in",
    "describe",
    "describe_exit",
    "in_cell",
    "is_cell",
    "is_deep",
    "plain_traceback",
    "where_interrupted",
]

DEEP_FRAMES = 60
"""From so many frames on a traceback is deep."""
CELL = "Cell In["
"""How the names of cells begin, where Python has names of files: `Cell In[3]`."""


def is_cell(filename: str) -> bool:
    """Whether code came from a cell, by the name that the shell's compiler gave it."""
    return filename.startswith(CELL)


def in_cell(frame: FrameType | None) -> bool:
    """Whether the code of a cell is on the stack of this frame."""
    return any(is_cell(each.f_code.co_filename) for each, _ in traceback.walk_stack(frame))


def cell_line(frames: Iterable[tuple[str, int]]) -> int:
    """The line of the running cell that a stack stands at; 0 when it is not in one.

    `frames` are file names and lines, outermost first. The outermost cell is the one that runs; a function that another
    cell defined has that cell's lines, which would mislead.
    """
    line, running = 0, ""
    for filename, number in frames:
        if is_cell(filename) and running in ("", filename):
            line, running = number, filename
    return line


def _places(trace: TracebackType | None) -> list[tuple[str, int]]:
    return [(frame.f_code.co_filename, number) for frame, number in traceback.walk_tb(trace)]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from, newest first, each once: nothing keeps a chain from being a ring."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not any(cause is each for each in seen):
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def is_deep(error: BaseException) -> bool:
    """Whether an error, with those that it came from, is of more calls than anybody reads one by one."""
    return sum(1 for each in _chain(error) for _ in traceback.walk_tb(each.__traceback__)) > DEEP_FRAMES


def plain_traceback(error: BaseException) -> list[str]:
    """The lines of a traceback as Python formats them, from the cell on."""
    trace = error.__traceback__
    while trace is not None and not is_cell(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace or error.__traceback__))
    return text.rstrip().split("\n")


def describe(
    error: BaseException, shown: list[str], kind: ErrorKind, reminder: str = "", collective: str = ""
) -> RemoteError:
    """An exception as data. `shown` are the lines of its traceback as IPython formats them; `reminder` says more."""
    line = cell_line(_places(error.__traceback__))
    if isinstance(error, SyntaxError) and not line:
        line = error.lineno or 0
    lines = "\n".join(shown).split("\n") if shown else traceback.format_exception(error)
    try:
        message = str(error)
    except Exception as broken:  # a user's __str__ may itself raise
        message = f"<its text could not be made: {type(broken).__name__}>"
    if reminder:
        message = f"{message} ({reminder})"
    name, message, lines = _sendable(type(error).__name__), _sendable(message[:20_000]), lines[-400:]
    return RemoteError(name, message, list(map(_sendable, lines)), line, kind, collective)


def describe_exit(error: SystemExit) -> RemoteError:
    """A `sys.exit` as data: there is nothing to trace back, the cell wanted to end there."""
    line = cell_line(_places(error.__traceback__))
    return RemoteError("SystemExit", _sendable(repr(error.code)[:300]), [], line, "exit")


def _sendable(text: str) -> str:
    """A text without lone surrogates, which no message can carry: names of files that are not UTF-8 hold them."""
    return text.encode("utf-8", "backslashreplace").decode()


def collective_in(error: BaseException, collective_of: Callable[[Sequence[FrameType]], Collective]) -> str:
    """The torch.distributed call that an error came from; empty where there is none.

    The interrupt can land while the call's own error is being handled; then that error knows the call.
    """
    for cause in _chain(error):
        if name := collective_of([frame for frame, _ in traceback.walk_tb(cause.__traceback__)]).name:
            return name
    return ""


def where_interrupted(error: BaseException, collective_of: Callable[[Sequence[FrameType]], Collective]) -> str:
    """`all_reduce at cell line 3`: the torch.distributed call that a rank was in, if any, and the line of the cell."""
    name = collective_in(error, collective_of)
    line = next((line for cause in _chain(error) if (line := cell_line(_places(cause.__traceback__)))), 0)
    place = f"cell line {line}" if line else "the cell"
    return f"{name} at {place}" if name else place
