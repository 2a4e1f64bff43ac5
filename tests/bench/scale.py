"""What a run costs the gateway and its links when there are many ranks."""

from __future__ import annotations

import time

from tests.bench.figures import Bench, Row, at_most, median, milliseconds, percentile
from tests.bench.simulated import simulate

__all__ = ["SCALE"]

RUNS = {1: 200, 64: 100, 1024: 40}
WARM_UP = 5
A_RANK = 50.0
GROWTH = 1.3


def timed(nodes: int, ranks_per_node: int) -> list[float]:
    """The seconds from sending a run to having heard its end, for many runs of `pass`."""
    found = []
    with simulate(nodes, ranks_per_node) as session:
        for turn in range(WARM_UP + RUNS[nodes * ranks_per_node]):
            began = time.perf_counter()
            session.run("pass").wait(30)
            if turn >= WARM_UP:
                found.append(time.perf_counter() - began)
    return found


def microseconds(value: float) -> str:
    """`31 µs`, of microseconds."""
    return f"{value:.0f} µs"


def run() -> list[Row]:
    """One agent with all ranks, then nodes of eight."""
    one, some, many = timed(1, 1), timed(1, 64), timed(1, 1024)
    spread, spread_some = timed(128, 8), timed(8, 8)
    each = {ranks: median(times) / ranks * 1e6 for ranks, times in ((64, some), (1024, many))}
    rows = [
        at_most(
            f"`pass` to {ranks:,} simulated workers, a rank",
            each[ranks],
            A_RANK,
            microseconds,
            f"p50 {milliseconds(median(times))}, p95 {milliseconds(percentile(times, 95))} in all",
        )
        for ranks, times in ((64, some), (1024, many))
    ]
    growth = each[1024] / each[64]
    return [
        *rows,
        Row(
            "simulated workers: a rank of 1,024, as a share of a rank of 64",
            f"{growth:.2f}",
            "",
            f"≤ {GROWTH:.2f}",
            growth <= GROWTH,
        ),
        Row(
            "simulated workers on nodes of 8, a rank of 64 and of 1,024",
            f"{microseconds(median(spread_some) / 64 * 1e6)} and {microseconds(median(spread) / 1024 * 1e6)}",
            f"{milliseconds(median(spread_some))} and {milliseconds(median(spread))} in all",
        ),
        Row("simulated workers: one, in all (the floor)", milliseconds(median(one))),
    ]


SCALE = Bench(
    name="scale",
    limit=90,
    how=(
        "A real gateway process, a real client (`Session.attach`, `run`, `wait`) and a process that speaks for the "
        "agent: it answers a cell with Started and Finished of each rank, batched in one message, over the real CURVE "
        "link. The clock runs in the client from sending to the end of the run; all three share the cores. Medians of "
        f"{RUNS[64]} and {RUNS[1024]} runs. Nodes of 8: 8 and 128 agents, each with a link of its own, in one process."
    ),
    run=run,
)
