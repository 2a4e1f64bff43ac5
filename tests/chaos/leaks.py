"""What each process of a session holds: memory, descriptors, threads; and whether that has grown."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from tests.chaos.faults import SESSION
from tests.support.notebook import Notebook
from tests.support.processes import ours

__all__ = ["Held", "compare", "measure"]

WHO = f"print({SESSION}.connection.pid, *[_rank.pid for _rank in {SESSION}.status().ranks])"
BYTES = 64 * 1024
"""What a fault may cost a process for ever: the log's index, the lines that a kernel keeps of its own history."""
START_BYTES = 24 * 1024 * 1024
"""What a process may grow by however few the faults: an allocator keeps what was needed once."""


@dataclass(frozen=True, slots=True)
class Held:
    """What one process holds."""

    memory: int
    descriptors: int
    threads: int


def measure(book: Notebook, folder: str) -> dict[str, Held]:
    """What the lasting processes of the one session of a kernel hold, and how many processes there are in all."""
    time.sleep(1)  # what is ending has ended
    gateway, *ranks = [int(word) for word in book.run(WHO).stdout.split()]
    kernel = int(getattr(book.manager.provisioner, "pid", 0))
    zygote = psutil.Process(gateway).ppid()
    names = {gateway: "gateway", zygote: "zygote", kernel: "kernel"}
    agents = [child.pid for child in psutil.Process(zygote).children() if child.pid not in (gateway, *ranks)]
    names |= {pid: f"agent {number}" for number, pid in enumerate(sorted(agents))}
    found = {name: held(pid) for pid, name in names.items()}
    everybody = list(ours(folder))
    found["all processes"] = Held(0, 0, len(everybody))
    youngest = [held(pid) for pid in ranks]
    found["ranks"] = Held(
        max(one.memory for one in youngest),
        max(one.descriptors for one in youngest),
        max(one.threads for one in youngest),
    )
    return found


def held(pid: int) -> Held:
    """What a process holds."""
    process = psutil.Process(pid)
    return Held(process.memory_info().rss, process.num_fds(), process.num_threads())


def compare(before: dict[str, Held], after: dict[str, Held], faults: int) -> list[str]:
    """What has grown by more than it may, in words."""
    found = []
    for name, now in after.items():
        then = before.get(name)
        if then is None:
            found.append(f"{name} is new")
            continue
        memory = f"{then.memory >> 20} → {now.memory >> 20} MiB"
        counts = f"descriptors {then.descriptors} → {now.descriptors}, threads {then.threads} → {now.threads}"
        print(f"  {name}: {memory}, {counts}")
        if now.memory > then.memory + START_BYTES + BYTES * faults:
            found.append(f"{name} has grown from {then.memory >> 20} to {now.memory >> 20} MiB")
        if now.descriptors > then.descriptors + 8:
            found.append(f"{name} holds {now.descriptors} descriptors, before {then.descriptors}")
        if now.threads > then.threads + 4:  # the last traceback of a rank holds a group that is gone
            found.append(f"{name} has {now.threads} threads, before {then.threads}")
    return found
