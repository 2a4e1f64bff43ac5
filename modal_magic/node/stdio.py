"""The standard streams of a rank: stdout and stderr go line by line into the agent's pipes, stdin has no keyboard."""

from __future__ import annotations

import bdb
import builtins
import contextlib
import ctypes
import functools
import getpass
import io
import os
import pdb  # noqa: T100 - to refuse it
import sys
from types import FrameType
from typing import Any, NoReturn

__all__ = ["NoKeyboardError", "no_debugger", "redirect", "renew"]


LINE_BUFFERED = 1
"""_IOLBF of stdio.h."""
SPARE = 100
"""So much higher is a second descriptor of each pipe, for a cell that closes the first."""


class NoKeyboardError(EOFError):
    """A cell asked for input on a rank. An EOFError, which is what code without a keyboard expects."""


def redirect(stdout: int, stderr: int) -> None:
    """Make the pipes descriptors 1 and 2, and sys.stdout and sys.stderr of them; stdin is empty.

    Lines go out whole, in one write each, so what a rank printed is in the pipe when the rank crashes.
    """
    devnull = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((devnull, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target)
        os.dup2(source, target + SPARE, inheritable=False)
        os.close(source)
    _buffer_lines_of_c()
    stdin = open(0, closefd=False)  # noqa: SIM115 - it lives as long as the process
    for attribute, stream in (("stdin", stdin), ("__stdin__", stdin), ("stdout", None), ("stderr", None)):
        setattr(sys, attribute, stream)
    renew()

    def no_keyboard(prompt: object = "", *rest: object, **options: object) -> NoReturn:
        raise NoKeyboardError(
            f"a rank has no keyboard (write the answer into the cell), so it cannot answer {str(prompt)!r}"
        )

    builtins.input = no_keyboard
    getpass.getpass = no_keyboard
    _refuse_debuggers()


def renew() -> None:
    """Have sys.stdout and sys.stderr again where there are none, or a cell has closed them or their descriptors."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        try:
            os.get_inheritable(descriptor)  # the least that can be asked of one
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(descriptor + SPARE, descriptor)
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            stream = _line_writer(descriptor)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def no_debugger() -> NoReturn:
    """Say why there is none. Raises NoKeyboardError."""
    raise NoKeyboardError(
        "a rank has no keyboard (print what you want to know, or ask %modal_stack where it is; after an error, "
        "sys.last_traceback has its frames), so it cannot use a debugger"
    )


def _refuse_debuggers() -> None:
    """Have debuggers that read from the keyboard say that there is none: `breakpoint()`, pdb, `%debug`.

    They would take the empty stdin for the command to quit. One that brings a line of its own, as to a socket, works.
    """

    original_set_trace, original_interaction = bdb.Bdb.set_trace, pdb.Pdb.interaction

    def refuse(debugger: Any) -> None:
        if getattr(debugger, "stdin", sys.stdin) is sys.stdin:
            no_debugger()

    @functools.wraps(original_set_trace)
    def set_trace(debugger: Any, frame: FrameType | None = None) -> None:
        refuse(debugger)
        original_set_trace(debugger, frame or sys._getframe(1))

    @functools.wraps(original_interaction)
    def interaction(debugger: Any, *arguments: Any) -> None:
        refuse(debugger)
        original_interaction(debugger, *arguments)

    bdb.Bdb.set_trace = set_trace  # type: ignore[assignment]
    pdb.Pdb.interaction = interaction  # type: ignore[assignment]


def _line_writer(descriptor: int) -> io.TextIOWrapper:
    raw = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - it lives as long as the process
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _buffer_lines_of_c() -> None:
    """Have C's stdout go out line by line, as to a terminal: into a pipe it would wait for 4 kB (setvbuf(3), Linux)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t]
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, LINE_BUFFERED, 0)
