"""From a fault on a rank to a notebook that can be used again."""

from __future__ import annotations

import re
import time

from tests.bench.figures import Bench, Row, at_most, median, milliseconds, percentile, seconds
from tests.bench.kernel import Kernel, start_kernel, wait_until_warm

__all__ = ["FAULTS"]

COUNT, WARM_UP = 20, 2
WORST, MEDIAN, REBUILD = 2.0, 0.7, 0.05
FOUR = "%%modal_distributed --replicas 4 --backend local\n"
SET_UP = f"""{FOUR}import ctypes, os, signal, time, torch, torch.distributed as dist
def begin():
    if rank == 1: print(f"at={{time.time()!r}}", flush=True)
"""
RAISES = (
    "%%modal_distributed\nif rank == 1:\n    begin()\n    raise ValueError('chosen')\ndist.all_reduce(torch.ones(8))"
)
DIES = (
    "%%modal_distributed\nif rank == 1:\n    begin()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    "dist.all_reduce(torch.ones(8))"
)
WAITS = "%%modal_distributed\nif rank == 1:\n    begin()\n    time.sleep(1000)\ndist.all_reduce(torch.ones(8))"
STUCK = WAITS.replace("time.sleep", "ctypes.PyDLL(None).sleep")
NEXT = "%%modal_distributed\nt = torch.ones(1); dist.all_reduce(t); print(f'sum={int(t)}')"
LISTEN = """\
import modal_magic.session as _session, modal_magic.protocol as _protocol
_seconds, _original = [], _session.Session._on_record
def _listen(self, record):
    if isinstance(record.event, _protocol.Grouped):
        _seconds.append(record.event.seconds)
    return _original(self, record)
_session.Session._on_record = _listen
"""
STAMP = re.compile(r"at=([\d.]+)")


def failing(kernel: Kernel, cell: str) -> list[float]:
    """The seconds from the moment before a rank fails to the kernel's idle, and all ranks work again after each."""
    taken = []
    for _ in range(WARM_UP + COUNT):
        reply = kernel.execute(cell, raises=True)
        taken.append(reply.sent + reply.seconds - float(STAMP.findall(reply.text)[0]))
        recover(kernel)
    return taken[WARM_UP:]


def interrupted(kernel: Kernel, cell: str) -> list[float]:
    """The seconds from an interrupt of the kernel to its idle, and all ranks work again after each."""
    taken = []
    for _ in range(WARM_UP + COUNT):
        taken.append(kernel.interrupt_during(cell, "at=", after=0.2))
        recover(kernel)
    return taken[WARM_UP:]


def recover(kernel: Kernel) -> None:
    """The next cell does what it says, on all ranks; one that was started anew is told what it needs."""
    kernel.execute(SET_UP)
    reply = kernel.execute(NEXT)
    assert reply.text.count("sum=4") == 4, reply.text
    time.sleep(0.05)


def rows_of(name: str, taken: list[float]) -> list[Row]:
    """The bars of one kind of fault."""
    beside = f"p95 {milliseconds(percentile(taken, 95))}"
    return [
        at_most(f"{name}: to control, p50", median(taken), MEDIAN, milliseconds, beside),
        at_most(f"{name}: to control, worst of {COUNT}", max(taken), WORST, seconds),
    ]


def run() -> list[Row]:
    """Four kinds of fault, then how long ranks took to form the groups that followed."""
    rows: list[Row] = []
    with start_kernel("%load_ext modal_magic") as kernel:
        kernel.execute(LISTEN)
        kernel.execute(SET_UP)
        wait_until_warm(kernel)
        rows += rows_of("a rank raises, the others are in all_reduce", failing(kernel, RAISES))
        rows += rows_of("interrupt, all but one are in all_reduce", interrupted(kernel, WAITS))
        rebuilt = [float(word) for word in kernel.execute("print(*_seconds)").text.split()]
        rows += rows_of("a rank is killed by SIGKILL, the others are in all_reduce", failing(kernel, DIES))
        rows += rows_of("interrupt, one holds the interpreter and must be killed", interrupted(kernel, STUCK))
    beside = f"{len(rebuilt)} times, worst {milliseconds(max(rebuilt))}"
    rows.append(
        at_most("a process group of 4 living ranks is rebuilt, p50", median(rebuilt), REBUILD, milliseconds, beside)
    )
    return rows


FAULTS = Bench(
    name="faults",
    limit=240,
    how=(
        f"A real kernel and 4 ranks; each fault {COUNT} times after {WARM_UP} that are not counted. From the moment "
        "before the rank fails (it prints the time) or the kernel is interrupted, to the kernel's idle. After each "
        "fault an all_reduce over all ranks must be right. The rebuild is what each rank says that it took "
        "(`Grouped.seconds`) where no rank had to be started anew."
    ),
    run=run,
)
