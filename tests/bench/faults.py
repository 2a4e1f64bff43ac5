"""From a fault on a rank to a notebook that can be used again."""

from __future__ import annotations

import re

from modal_magic import Session, registry
from tests.bench.figures import Bench, Row, at_most, median, milliseconds, percentile, seconds
from tests.bench.kernel import Kernel, start_kernel, wait_until_warm

__all__ = ["FAULTS"]

COUNT, WARM_UP = 20, 2
WORST, MEDIAN, REBUILD = 2.0, 0.7, 0.05
SHOWN, PYTHON = 0.3, 0.2
"""The bars where there are closer ones: for a traceback to be shown, and for an interrupt where Python runs."""
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
COMPUTES = WAITS.replace("time.sleep(1000)", "all(map(float('inf').__gt__, iter(time.time, None)))")
IN_PYTHON = "%%modal_distributed\nif rank == 1:\n    begin()\n    while True: pass\ntime.sleep(1000)"
NEXT = "%%modal_distributed\nt = torch.ones(1); dist.all_reduce(t); print(f'sum={int(t)}')"
LISTEN = """\
import modal_magic.sessions.session as _session, modal_magic.protocol as _protocol
_seconds, _original = [], _session.Session._on_record
def _listen(self, record):
    if isinstance(record.event, _protocol.Grouped):
        _seconds.append(record.event.seconds)
    return _original(self, record)
_session.Session._on_record = _listen
"""
STAMP = re.compile(r"at=([\d.]+)")


def failing(kernel: Kernel, cell: str, told: str) -> tuple[list[float], list[float]]:
    """The seconds from the moment before a rank fails to the kernel's idle, and to the first message that tells of it.

    All ranks must work again after each.
    """
    taken, shown = [], []
    for _ in range(WARM_UP + COUNT):
        reply = kernel.execute(cell, raises=True)
        at = float(STAMP.findall(reply.text)[0]) - reply.sent
        taken.append(reply.seconds - at)
        shown.append(reply.seconds_to(told, 1) - at)
        recover(kernel)
    return taken[WARM_UP:], shown[WARM_UP:]


def interrupted(kernel: Kernel, cell: str) -> list[float]:
    """The seconds from an interrupt of the kernel to its idle, and all ranks work again after each."""
    taken = []
    line, collective = cell.count("\n") + 1, "all_reduce" if cell.endswith("dist.all_reduce(torch.ones(8))") else ""
    watching = Session.attach(*registry.names(), watches=True)

    def there() -> bool:
        """Whether all ranks but the one that has begun are at the last line."""
        places = [stack.where for stack in watching.stacks() if stack.rank != 1]
        return all(place is not None and (place.line, place.collective) == (line, collective) for place in places)

    for _ in range(WARM_UP + COUNT):
        taken.append(kernel.interrupt_during(cell, "at=", there))
        recover(kernel)
    watching.detach()
    return taken[WARM_UP:]


def recover(kernel: Kernel) -> None:
    """The next cell does what it says, on all ranks; one that was started anew is told what it needs."""
    kernel.execute(SET_UP)
    reply = kernel.execute(NEXT)
    assert reply.text.count("sum=4") == 4, reply.text


def rows_of(name: str, taken: list[float], middle: float = MEDIAN, worst: float = WORST) -> list[Row]:
    """The bars of one kind of fault."""
    beside = f"p95 {milliseconds(percentile(taken, 95))}"
    return [
        at_most(f"{name}, p50", median(taken), middle, milliseconds, beside),
        at_most(f"{name}, worst of {COUNT}", max(taken), worst, seconds),
    ]


def run() -> list[Row]:
    """Kinds of fault and of interrupt, then how long ranks took to form the groups that followed."""
    rows: list[Row] = []
    with start_kernel("%load_ext modal_magic") as kernel:
        kernel.execute(LISTEN)
        kernel.execute(SET_UP)
        wait_until_warm(kernel)
        control, shown = failing(kernel, RAISES, "raise ValueError('chosen')")
        rows += rows_of("a rank raises, the others are in all_reduce: its traceback is shown", shown, SHOWN, SHOWN)
        rows += rows_of("a rank raises, the others are in all_reduce: control", control)
        rows += rows_of("interrupt, all are in Python: control", interrupted(kernel, IN_PYTHON), PYTHON, PYTHON)
        rows += rows_of("interrupt, all but one are in all_reduce: control", interrupted(kernel, WAITS))
        rebuilt = [float(word) for word in kernel.execute("print(*_seconds)").text.split()]
        control, shown = failing(kernel, DIES, "killed by SIGKILL")
        rows += rows_of("a rank is killed by SIGKILL, the others are in all_reduce: it is named", shown, SHOWN, SHOWN)
        rows += rows_of("a rank is killed by SIGKILL, the others are in all_reduce: control", control)
        rows += rows_of(
            "interrupt, one waits in C with the GIL and must be killed: control", interrupted(kernel, STUCK)
        )
        taken = interrupted(kernel, COMPUTES)
        rows += rows_of("interrupt, one computes in C with the GIL and is killed: control", taken, WORST)
    beside = f"{len(rebuilt)} times, worst {milliseconds(max(rebuilt))}"
    rows.append(
        at_most("a process group of 4 living ranks is rebuilt, p50", median(rebuilt), REBUILD, milliseconds, beside)
    )
    return rows


FAULTS = Bench(
    name="faults",
    limit=360,
    how=(
        f"A real kernel and 4 ranks; each fault {COUNT} times after {WARM_UP} that are not counted. From the moment "
        "before the rank fails (it prints the time) or the kernel is interrupted, to the kernel's idle, or to the "
        "first message that has the traceback or the cause. After each fault an all_reduce over all ranks must be "
        "right. The rebuild is what each rank says that it took (`Grouped.seconds`) where no rank had to be started "
        "anew."
    ),
    run=run,
)
