"""Where a rank has crashed: Python's faulthandler writes its stack into a file without a name, read after its death."""

from __future__ import annotations

import faulthandler
import os
import re
import sys
import tempfile
from dataclasses import dataclass

from modal_magic.node.failure import CELL, cell_line, is_cell

__all__ = ["Crash", "open_report", "read_report", "report_to"]

REPORT_BYTES = 64 * 1024
CALL = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)')
"""A line of a stack as faulthandler writes it. The most recent call comes first."""
CALLS = 20
"""So many calls are shown of a stack that is deeper."""
OWN = "Current thread"
"""What the stack of the thread that crashed begins with; one of C or C++ has none."""


@dataclass(frozen=True, slots=True)
class Crash:
    """What is told of a crash: `where` as a phrase that may be empty, and the stack down to the cell as `text`."""

    where: str
    text: str


def open_report() -> int:
    """A file for the report, which only its descriptor leads to. It is the caller's to close."""
    if sys.platform == "linux":
        return os.memfd_create("report")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def report_to(descriptor: int) -> None:
    """Have a crash of this process reported there; also one in a thread of C++, with what Python does meanwhile."""
    faulthandler.enable(file=descriptor)


def read_report(descriptor: int) -> Crash | None:
    """What was reported; None where nothing was."""
    title, *stacks = os.pread(descriptor, REPORT_BYTES, 0).decode(errors="replace").split("\n\n")
    if not title:
        return None
    own = next((stack for stack in stacks if stack.startswith(OWN)), "")
    stack = own or next((stack for stack in stacks if f'"{CELL}' in stack), "")
    calls = [call for line in stack.splitlines() if (call := CALL.fullmatch(line))]
    cells = [number for number, call in enumerate(calls) if is_cell(call["file"])]
    shown = [call.group() for call in (calls[: cells[-1] + 1] if cells else calls)]
    shown[CALLS:] = ["  …"] * (len(shown) > CALLS)
    whose = "" if own else ", in a thread of C or C++; Python meanwhile"
    text = "\n".join([f"{title}{whose}{', most recent call first:' if shown else ''}", *shown, ""])
    line = cell_line((call["file"], int(call["line"])) for call in reversed(calls))
    inside = f" in {calls[0]['name']}" if own and calls and not is_cell(calls[0]["file"]) else ""
    return Crash(f"{inside} at cell line {line}" if line else inside, text)
