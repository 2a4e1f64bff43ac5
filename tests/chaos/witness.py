"""Where ranks are that are late to give control back: said while they are, for afterwards they are gone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["REGISTER", "watching"]

REGISTER = """
import faulthandler, os, signal
faulthandler.register(signal.SIGUSR1, file=open({folder!r} + f'/{{os.getpid()}} rank {{rank}}', 'w'), all_threads=True)
"""
"""What a cell does that each rank can be asked for its stacks, also while C code holds the GIL."""
WRITTEN_SECONDS = 0.1


@contextlib.contextmanager
def watching(folder: str, seconds: float, say: Callable[[str], None]) -> Iterator[None]:
    """Say where all ranks are that have registered in `folder`, if the context lasts so long."""

    def look() -> None:
        say("\n".join(map(described, sorted(Path(folder).iterdir()))))

    timer = threading.Timer(seconds, look)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def described(file: Path) -> str:
    """The threads of a rank as the system knows them, and their stacks as Python does. Nothing of one that is gone."""
    pid, _, rank = file.name.partition(" ")
    before = file.stat().st_size
    try:
        threads = [thread(Path(f"/proc/{pid}/task/{number}")) for number in os.listdir(f"/proc/{pid}/task")]
        os.kill(int(pid), signal.SIGUSR1)
    except (FileNotFoundError, ProcessLookupError):
        return ""
    time.sleep(WRITTEN_SECONDS)
    with file.open() as written:
        written.seek(before)
        return "\n".join([f"{rank} (pid {pid})", *threads, written.read()])


def thread(path: Path) -> str:
    """A thread as the system knows it: its name, its state, where in the system it waits, its ticks of a processor."""
    with contextlib.suppress(OSError):
        name, _, rest = path.joinpath("stat").read_text().rpartition(")")
        fields, waits = rest.split(), path.joinpath("wchan").read_text()
        return f"  {name}) {fields[0]} in {waits}, {fields[11]}+{fields[12]} ticks"
    return ""
