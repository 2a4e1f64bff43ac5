"""From a print on a rank to the client, while the cell goes on."""

from __future__ import annotations

import re

from tests.bench.figures import Bench, Row, at_most, median, milliseconds, percentile
from tests.bench.kernel import Reply, start_kernel, wait_until_warm
from tests.bench.peers import PX, start_ipyparallel

__all__ = ["LATENCY"]

LINES = 40
SAY = f"""\
import time
time.sleep(rank * 0.025)
for turn in range({LINES}):
    print(f"t={{time.time()!r}}", flush=True)
    time.sleep(0.1)
"""
BARE = f"""\
import time
for turn in range({LINES}):
    print(f"[rank 0] t={{time.time()!r}}", flush=True)
    time.sleep(0.05)
"""
LABELLED = re.compile(r"^\[rank \d\] t=([\d.]+)$", re.MULTILINE)
ANY = re.compile(r"\bt=([\d.]+)$", re.MULTILINE)


def delays(reply: Reply, count: int, said: re.Pattern[str] = LABELLED) -> list[float]:
    """How long each line was under way. Raises AssertionError when lines are missing."""
    found = [chunk.at - float(at) for chunk in reply.chunks for at in said.findall(chunk.text)]
    assert len(found) == count, f"{len(found)} of {count} lines came"
    return found


def ipyparallel() -> list[float]:
    """The same code under `%%px`."""
    with start_ipyparallel(4) as kernel:
        kernel.execute("client[:].scatter('rank', range(4), flatten=True, block=True)")
        return delays(kernel.execute(f"{PX}\n{SAY}"), 4 * LINES, ANY)


def run() -> list[Row]:
    """Ours, ipyparallel's, and the floor: a kernel that prints by itself."""
    with start_kernel("%load_ext modal_magic") as kernel:
        kernel.execute("%%modal_distributed --replicas 4 --backend local\npass")
        wait_until_warm(kernel)
        ours = delays(kernel.execute(f"%%modal_distributed\n{SAY}"), 4 * LINES)
        floor = delays(kernel.execute(BARE), LINES)
    theirs = ipyparallel()
    return [
        at_most(
            "print on a rank to the client, p50",
            median(ours),
            0.005,
            milliseconds,
            f"ipyparallel {milliseconds(median(theirs))}, bare kernel {milliseconds(median(floor))}",
        ),
        at_most(
            "print on a rank to the client, p95",
            percentile(ours, 95),
            0.015,
            milliseconds,
            f"ipyparallel {milliseconds(percentile(theirs, 95))}, bare kernel {milliseconds(percentile(floor, 95))}",
        ),
    ]


LATENCY = Bench(
    name="latency",
    limit=90,
    how=(
        f"4 ranks each print the time {LINES} times, ten times a second, begun 25 ms apart; the delay of a line is "
        "from that time to the arrival of the iopub message that holds it. All lines must come, each with its rank. "
        "The bare kernel prints and flushes such lines itself. ipyparallel: the same code under `%%px` on 4 engines."
    ),
    run=run,
)
