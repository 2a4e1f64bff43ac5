"""What `%load_ext modal_magic` costs a kernel."""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]

from tests.bench.figures import Bench, Row, at_most, median, milliseconds
from tests.bench.kernel import start_kernel

__all__ = ["LOADING"]

RUNS = 5


def load_once() -> tuple[float, float, float]:
    """In a fresh kernel: the seconds and the MB that loading takes, and the seconds of a bare `pass`."""
    with start_kernel() as kernel:
        bare = median(kernel.execute("pass").seconds for _ in range(20))
        process = psutil.Process(kernel.pid)
        before = process.memory_info().rss
        taken = kernel.execute("%load_ext modal_magic").seconds
        grown = process.memory_info().rss - before
    return taken - bare, grown / 1e6, bare


def run() -> list[Row]:
    """Medians of fresh kernels."""
    load_once()  # writes the bytecode of the package, as pip does
    found = [load_once() for _ in range(RUNS)]
    taken, grown, bare = (median(values) for values in zip(*found, strict=True))
    times = [one[0] for one in found]
    beside = f"{milliseconds(min(times))} to {milliseconds(max(times))}; bare {milliseconds(bare)}"
    return [
        at_most(
            "`%load_ext modal_magic`, more than a bare `pass`",
            taken,
            0.05,
            milliseconds,
            beside,
        ),
        at_most("`%load_ext modal_magic`, the kernel's memory (RSS) grows by", grown, 15, "{:.1f} MB".format),
    ]


LOADING = Bench(
    name="load",
    limit=60,
    how=(
        f"Fresh kernels, medians of {RUNS}: from sending the cell to idle, less the kernel's own median `pass`; and "
        "the kernel's RSS after it less before."
    ),
    run=run,
)
