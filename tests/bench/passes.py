"""What a cell costs on ranks that are up: `pass`, beside the same kernel's own `pass`."""

from __future__ import annotations

from tests.bench.figures import Bench, Row, at_most, median, milliseconds, percentile
from tests.bench.kernel import Kernel, start_kernel, wait_until_warm
from tests.bench.peers import PX, start_ipyparallel

__all__ = ["PASSES"]

BARS = {4: 0.0012, 8: 0.0025}
COUNT, WARM_UP = 200, 20


def in_a_row(kernel: Kernel, cell: str) -> tuple[list[float], list[float]]:
    """The seconds of a cell and of a bare `pass`: first all of the one, then all of the other."""
    taken = [[kernel.execute(source).seconds for _ in range(WARM_UP + COUNT)] for source in (cell, "pass")]
    return taken[0][WARM_UP:], taken[1][WARM_UP:]


def in_all(cells: list[float], bare: list[float]) -> str:
    """The times that a difference was made of."""
    shown = map(milliseconds, (median(cells), percentile(cells, 95), median(bare)))
    return "in all p50 {}, p95 {}; bare {}".format(*shown)


def figure(kernel: Kernel, ranks: int) -> Row:
    """The row of so many ranks."""
    kernel.execute(f"%%modal_distributed --session of-{ranks} --replicas {ranks} --backend local\npass")
    wait_until_warm(kernel)  # the next session's zygote, which would take one of the cores
    cells, bare = in_a_row(kernel, "%%modal_distributed\npass")
    kernel.execute("%modal_stop")
    more = median(cells) - median(bare)
    title = f"`pass` on {ranks} ranks, more than a bare `pass`"
    return at_most(title, more, BARS[ranks], milliseconds, in_all(cells, bare))


def ipyparallel() -> Row:
    """The same of `%%px`, whose cells do not always end."""
    title = "`pass` on 4 engines of ipyparallel, `%%px`, likewise"
    try:
        with start_ipyparallel(4) as kernel:
            cells, bare = in_a_row(kernel, f"{PX}\npass")
    except TimeoutError as error:
        return Row(title, "", str(error))
    return Row(title, milliseconds(median(cells) - median(bare)), in_all(cells, bare))


def run() -> list[Row]:
    """Ours on 4 and 8 ranks, then ipyparallel's on 4."""
    with start_kernel("%load_ext modal_magic") as kernel:
        rows = [figure(kernel, ranks) for ranks in BARS]
    return [*rows, ipyparallel()]


PASSES = Bench(
    name="pass",
    limit=120,
    how=(
        "A real kernel; the client's clock runs from sending the cell to the kernel's idle. `%%modal_distributed` with "
        f"`pass` {COUNT} times in a row, then a bare `pass` as often, each after {WARM_UP} that are not counted; p50"
        " of the one less p50 of the other. Likewise `%%px` of ipyparallel in a kernel of its own."
    ),
    run=run,
)
