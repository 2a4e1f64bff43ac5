"""What the system knows of a rank that does not answer: whether it computes, waits or is stopped (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_stuck", "processor_ticks", "silence"]


def _look(path: Path) -> tuple[str, int]:
    """The state of a process or of one of its threads, and the ticks of a processor that it has had; ("", -1): gone."""
    try:
        fields = path.joinpath("stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", -1
    return fields[0], int(fields[11]) + int(fields[12])


def processor_ticks(pid: int) -> int:
    """How much time of a processor the main thread of a process has had, in ticks of the system; -1 where not known."""
    return _look(Path(f"/proc/{pid}/task/{pid}"))[1]


def is_stuck(pid: int, ticks: int) -> bool:
    """Whether a process waits in C, for all that one can see: its threads sleep, and its main thread has not run.

    `ticks` is what `processor_ticks` said when it was first spoken to. A thread that has been woken and has not had
    its turn, as on a machine that is busy, does not sleep. Never so where the system does not tell.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    asleep = all(_look(Path(f"/proc/{pid}/task/{thread}"))[0] in ("S", "") for thread in threads)
    return asleep and ticks >= 0 and processor_ticks(pid) == ticks


def silence(pid: int) -> str:
    """Why a process does not say where it is, as a phrase, from what the system knows of its main thread."""
    known = {
        "T": "is stopped (SIGSTOP)",
        "t": "is stopped by a debugger",
        "R": "does not answer: C code computes and holds the GIL",
        "S": "does not answer: C code waits and holds the GIL",
        "D": "does not answer: it waits for a disk or a device",
    }
    return known.get(_look(Path(f"/proc/{pid}"))[0], "does not answer: it holds the GIL or is stopped")
