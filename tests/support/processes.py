"""Which processes of modal_magic are there: by the runtime folder in their environment, each test run's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import psutil


def ours(folder: str) -> Iterator[psutil.Process]:
    """The processes, other than this one, that were started with this runtime folder."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.environ().get("MODAL_MAGIC_RUNTIME_DIR") == folder and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue


def found(pid: int) -> psutil.Process | None:
    """A process, if it runs: one that has ended is not there, though nobody has waited for it yet."""
    try:
        process = psutil.Process(pid)
        return process if process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def gone(pids: Iterable[int], seconds: float = 60.0) -> bool:
    """Wait until none of these processes is there any more. Whether that is so."""
    _, alive = psutil.wait_procs([process for pid in pids if (process := found(pid))], timeout=seconds)
    return not any(found(process.pid) for process in alive)


def described(processes: list[psutil.Process]) -> str:
    """Processes as a test's message names them."""
    told = []
    for process in processes:
        try:
            told.append(f"{process.pid} (parent {process.ppid()}): {' '.join(process.cmdline())[:100]}")
        except psutil.NoSuchProcess:
            continue
    return "\n".join(told)


def end(processes: Iterable[psutil.Process]) -> str:
    """Kill these processes. Gives them as a test's message names them."""
    left = list(processes)
    told = described(left)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return told
