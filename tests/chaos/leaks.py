"""What each process of a session holds: memory, descriptors, threads; and whether that has grown."""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass

import psutil

from modal_magic.frameworks.left_groups import LINGERING
from tests.chaos.session import Chaos
from tests.support.processes import ours

__all__ = ["Held", "compare", "measure"]

REST_SECONDS = 10.0
"""How long what is ending may take to end; what is still there then counts as a process that is there."""
GROUP_DESCRIPTORS, GROUP_THREADS = 6, 3
"""What a process group costs a rank of four."""
GROUP_BYTES = 32_000_000
"""What the work of a group that was left may hold as well: the tensor of `MUCH`."""
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


def measure(chaos: Chaos, folder: str) -> dict[str, Held]:
    """What the lasting processes of the one session of a kernel hold, and how many processes there are in all."""
    parts = chaos.parts()
    kernel = int(getattr(chaos.book.manager.provisioner, "pid", 0))
    lasting = {kernel, *parts.pids.values()}
    wait_for_the_rest(lasting, kernel, folder)
    found = {name: held(pid) for name, pid in parts.pids.items() if not name.startswith("rank")}
    found["kernel"] = held(kernel)
    found["all processes"] = Held(0, 0, len(list(ours(folder))))
    ranks = [held(pid) for pid in parts.processes("rank")]
    found["ranks"] = Held(*(max(column) for column in zip(*map(astuple, ranks), strict=True)))
    return found


def wait_for_the_rest(lasting: set[int], kernel: int, folder: str) -> None:
    """Return once what is ending has ended: no other process is there, but the zygote that the kernel keeps warm."""
    until = time.monotonic() + REST_SECONDS
    while time.monotonic() < until:
        others = [process for process in ours(folder) if process.pid not in lasting]
        if all(process.ppid() == kernel for process in others):
            return
        psutil.wait_procs(others, timeout=0.1)


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
        # A rank may keep some groups that it has left: the last one, and those that its garbage refers to.
        groups = LINGERING + 1 if name == "ranks" else 0
        if now.memory > then.memory + START_BYTES + BYTES * faults + groups * GROUP_BYTES:
            found.append(f"{name} has grown from {then.memory >> 20} to {now.memory >> 20} MiB")
        if now.descriptors > then.descriptors + 8 + groups * GROUP_DESCRIPTORS:
            found.append(f"{name} holds {now.descriptors} descriptors, before {then.descriptors}")
        if now.threads > then.threads + 4 + groups * GROUP_THREADS:
            found.append(f"{name} has {now.threads} threads, before {then.threads}")
    return found
