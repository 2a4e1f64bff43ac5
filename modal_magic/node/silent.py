"""What the system knows of a rank that does not answer: whether it computes, waits or is stopped (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

from modal_magic.protocol import Whereabouts

__all__ = ["is_stuck", "last_seen", "processor_ticks", "silence"]


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
    return " ".join(_silence(pid))


def _silence(pid: int) -> tuple[str, str]:
    """The verb of that phrase, and what else it has."""
    known = {
        "T": ("is", "stopped (SIGSTOP)"),
        "t": ("is", "stopped by a debugger"),
        "R": ("does not answer:", "C code computes and holds the GIL"),
        "S": ("does not answer:", "C code waits and holds the GIL"),
        "D": ("does not answer:", "it waits for a disk or a device"),
    }
    return known.get(_look(Path(f"/proc/{pid}"))[0], ("does not answer:", "it holds the GIL or is stopped"))


def last_seen(where: Whereabouts | None, pid: int | None) -> str:
    """What there is to say of a rank that has to be killed, in brackets: where it was seen last, and why it is silent.

    `pid` is None for one that is not silent. Empty where nothing is known.
    """
    known: list[str] = []
    if where is not None and (where.line or where.collective):
        call, line = f"in {where.collective} " if where.collective else "", f"at cell line {where.line}"
        known.append(f"last seen {call}{line if where.line else ''}".rstrip())
    if pid is not None:
        known.append(_silence(pid)[1])
    return f" ({'; '.join(known)})" if known else ""
