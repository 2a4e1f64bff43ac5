"""From nothing to the first all_reduce on four ranks, beside torchrun."""

from __future__ import annotations

from tests.bench.figures import Bench, Row, at_most, median, seconds
from tests.bench.kernel import Kernel, start_kernel, wait_until_warm
from tests.bench.monarch import MISSING, first_sum
from tests.bench.torchrun import torchrun

__all__ = ["STARTS"]

LOAD = "%load_ext modal_magic"
MAGIC = "%%modal_distributed --replicas 4 --backend local\n"
REDUCE = """\
import torch
import torch.distributed as dist

total = torch.ones(1)
dist.all_reduce(total)
print(f"sum {total.item()}\\n", end="", flush=True)
"""
SCRIPT = REDUCE.replace("total =", 'dist.init_process_group("gloo")\ntotal =', 1) + "dist.destroy_process_group()\n"
MARKER = "sum 4.0"


def warm_start(kernel: Kernel, source: str) -> float:
    """A session whose zygote was ready: its time to the fourth marker. The session is stopped again."""
    wait_until_warm(kernel)
    taken = kernel.execute(MAGIC + source).seconds_to(MARKER, 4)
    kernel.execute("%modal_stop")
    return taken


def cold_start() -> float:
    """The same from `%load_ext` in a kernel that has just started, both cells sent at once."""
    with start_kernel() as kernel:
        load, cell = kernel.results([LOAD, MAGIC + REDUCE])
        return cell.seconds_to(MARKER, 4) + cell.sent - load.sent


def baseline() -> float:
    """torchrun, from its start to the fourth marker."""
    return torchrun(SCRIPT).seconds_to(MARKER, 4)


def run() -> list[Row]:
    """Ours and torchrun's by turns."""
    baseline()  # what the first launch has to read from disk is in memory then
    theirs, cold, actors = [], [], []
    for _ in range(3):
        theirs.append(baseline())
        cold.append(cold_start())
        actors.append(first_sum())
    with start_kernel(LOAD) as kernel:
        warm = [warm_start(kernel, REDUCE) for _ in range(5)]
        unchanged = [warm_start(kernel, SCRIPT) for _ in range(3)]
    torch_start = median(theirs)
    beside = f"torchrun {seconds(torch_start)} ({seconds(min(theirs))} to {seconds(max(theirs))})"
    ours = median(warm)
    shown = f"{seconds(min(warm))} to {seconds(max(warm))}"
    return [
        at_most("start of 4 ranks to first all_reduce, zygote warm", ours, 0.25, seconds, shown),
        at_most(
            "start of 4 ranks, zygote warm, as a share of torchrun", ours / torch_start, 0.08, "{:.3f}".format, beside
        ),
        Row("start of 4 ranks, zygote warm, torchrun's script unchanged", seconds(median(unchanged)), beside),
        at_most(
            "start from `%load_ext` in a new kernel, as a share of torchrun",
            median(cold) / torch_start,
            0.7,
            "{:.2f}".format,
            f"{seconds(median(cold))} beside {seconds(torch_start)}",
        ),
        *beside_monarch(ours, median(cold), [taken for taken in actors if taken is not None]),
    ]


def beside_monarch(warm: float, cold: float, actors: list[float]) -> list[Row]:
    """Both starts beside that of Monarch's actors, which is as cold as the second."""
    title = "start of 4 actors of Monarch to first all_reduce, in a new kernel"
    if not actors:
        return [Row(title, "", MISSING)]
    theirs = median(actors)
    return [
        Row(title, seconds(theirs), f"{seconds(min(actors))} to {seconds(max(actors))}"),
        Row("start of 4 ranks, zygote warm, as a share of Monarch", f"{warm / theirs:.2f}", seconds(warm)),
        Row("start from `%load_ext`, as a share of Monarch", f"{cold / theirs:.2f}", seconds(cold)),
    ]


STARTS = Bench(
    name="start",
    limit=240,
    how=(
        "A real kernel; the client's clock runs from sending the `%%modal_distributed --replicas 4 --backend local` "
        "cell to the iopub message that holds the fourth rank's sum. Median of 5 sessions, each new, with "
        "`%modal_stop` between and a wait until the next zygote is ready. From `%load_ext`: a new kernel each, both "
        "cells sent at once, median of 3. torchrun runs the same lines with `init_process_group` before them, from the "
        "start of its process to the fourth sum on its stdout: median of 3 after one that is not counted, by turns "
        "with the new kernels. Monarch likewise: a cell in a new kernel imports it, starts four actors and has them "
        "form a gloo group; the clock runs to the kernel's idle."
    ),
    run=run,
)
