"""What a rank's process leaves when it crashes, made by real crashes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from modal_magic.node.crashes import CALLS, Crash, open_report, read_report

CRASH = """
import ctypes, sys, time
from modal_magic.node.crashes import report_to
report_to(int(sys.argv[1]))
exec(compile(sys.argv[2], "Cell In[3]", "exec"))
"""
ABORT_ELSEWHERE = """
library, thread = ctypes.CDLL(None), ctypes.c_ulong()
abort = ctypes.cast(library.abort, ctypes.c_void_p)
library.pthread_create(ctypes.byref(thread), None, abort, None); time.sleep(60)
"""


@pytest.fixture
def report() -> Iterator[int]:
    """The descriptor of a report."""
    descriptor = open_report()
    yield descriptor
    os.close(descriptor)


def crash(report: int, cell: str) -> Crash:
    """What is read of the crash of a cell."""
    subprocess.run([sys.executable, "-c", CRASH, str(report), cell], pass_fds=[report], timeout=30)
    found = read_report(report)
    assert found is not None
    return found


def test_a_crash_is_told_with_its_line_of_the_cell_and_the_calls_from_there(report: int) -> None:
    found = crash(report, "def look(address):\n    return ctypes.string_at(address)\n\nlook(0)")
    assert found.where == " in string_at at cell line 2"
    assert re.fullmatch(
        r"Fatal Python error: Segmentation fault, most recent call first:\n"
        r'  File ".*ctypes/__init__\.py", line \d+ in string_at\n'
        r'  File "Cell In\[3\]", line 2 in look\n'
        r'  File "Cell In\[3\]", line 4 in <module>\n',
        found.text,
    )


def test_a_crash_in_a_thread_of_c_is_told_with_the_line_that_the_cell_was_at(report: int) -> None:
    found = crash(report, ABORT_ELSEWHERE)
    assert found == Crash(
        " at cell line 4",
        "Fatal Python error: Aborted, in a thread of C or C++; Python meanwhile, most recent call first:\n"
        '  File "Cell In[3]", line 4 in <module>\n',
    )


def test_of_a_deep_stack_the_innermost_calls_are_shown(report: int) -> None:
    found = crash(report, "def fall(depth):\n    depth and fall(depth - 1) or ctypes.string_at(0)\n\nfall(50)")
    lines = found.text.splitlines()
    assert "string_at" in lines[1] and lines[-1] == "  …" and len(lines) == 1 + CALLS + 1


def test_a_process_that_did_not_crash_has_nothing_to_tell(report: int) -> None:
    subprocess.run([sys.executable, "-c", CRASH, str(report), "sys.exit(3)"], pass_fds=[report], timeout=30)
    assert read_report(report) is None
