"""What a cell costs on ranks that are up: `pass`, beside the same kernel's own `pass`."""

from __future__ import annotations

from tests.bench.figures import Bench, Row, at_most, median, milliseconds, percentile
from tests.bench.kernel import Kernel, start_kernel
from tests.bench.peers import PX, start_ipyparallel

__all__ = ["PASSES"]

BARS = {4: 0.0012, 8: 0.0025}
COUNT, WARM_UP = 200, 20


def by_turns(kernel: Kernel, cell: str) -> tuple[list[float], list[float]]:
    """The seconds of a cell and of a bare `pass`, one after the other."""
    cells, bare = [], []
    for turn in range(WARM_UP + COUNT):
        taken, floor = kernel.execute(cell).seconds, kernel.execute("pass").seconds
        if turn >= WARM_UP:
            cells.append(taken)
            bare.append(floor)
    return cells, bare


def figure(kernel: Kernel, ranks: int) -> Row:
    """The row of so many ranks."""
    kernel.execute(f"%%modal_distributed --session of-{ranks} --replicas {ranks} --backend local\npass")
    kernel.execute("import time; time.sleep(3)")  # the next session's zygote is importing torch until then
    cells, bare = by_turns(kernel, "%%modal_distributed\npass")
    kernel.execute("%modal_stop")
    floor = median(bare)
    beside = (
        f"bare kernel {milliseconds(floor)}; in all p50 {milliseconds(median(cells))}, "
        f"p95 {milliseconds(percentile(cells, 95))}"
    )
    return at_most(
        f"`pass` on {ranks} ranks, more than a bare `pass`", median(cells) - floor, BARS[ranks], milliseconds, beside
    )


def run() -> list[Row]:
    """Ours on 4 and 8 ranks, then ipyparallel's on 4."""
    with start_kernel("%load_ext modal_magic") as kernel:
        rows = [figure(kernel, ranks) for ranks in BARS]
    with start_ipyparallel(4) as kernel:
        cells, bare = by_turns(kernel, f"{PX}\npass")
    theirs = (
        f"ipyparallel {milliseconds(median(cells) - median(bare))}, p95 in all {milliseconds(percentile(cells, 95))}"
    )
    return [*rows, Row("the same on 4 engines of ipyparallel, `%%px`", "", theirs)]


PASSES = Bench(
    name="pass",
    limit=120,
    how=(
        f"A real kernel; the client's clock runs from sending the cell to the kernel's idle. `%%modal_distributed` with "
        f"`pass` and a bare `pass` by turns, {COUNT} of each after {WARM_UP} that are not counted; p50 of the one less p50 "
        f"of the other. Likewise `%%px` of ipyparallel in a kernel of its own."
    ),
    run=run,
)
