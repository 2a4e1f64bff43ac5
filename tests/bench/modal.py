"""A gateway that is far away: what a short cell takes through a tunnel and through a queue, and whether all arrives."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from modal_magic.sessions.session import Session
from tests.bench.figures import Bench, Row, median, milliseconds, seconds
from tests.modal_emulator.handle import emulator
from tests.support.namespaces import possible

__all__ = ["MODAL"]

ROUND_TRIP = 0.08
RANKS = 4
LINES = 10_000
TURNS = 20
FLOOD = f"for i in range({LINES}): print(f'line {{i}}')"


def timed(work: Callable[[], object], turns: int = TURNS) -> list[float]:
    """How long each of some turns took, after two that are not counted."""
    taken = []
    for _ in range(turns + 2):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken[2:]


def through(link: str) -> list[Row]:
    """The figures of one way to the gateway."""
    with Session(backend="modal", nproc_per_node=RANKS, framework="none", link=link) as session:
        session.ready()
        trips = timed(session.status)  # one question to the gateway, and its answer
        cells = timed(lambda: session.run("pass").wait(30))
        (flood,) = timed(lambda: session.run(FLOOD, output_limit=None).wait(60), turns=1)
        lines = Counter((rank, text) for rank, _, text in session.logs())
    whole = sum(lines[rank, f"line {i}"] == 1 for rank in range(RANKS) for i in range(LINES))
    away = f"{RANKS} ranks {ROUND_TRIP * 1000:.0f} ms away, {link}"
    trip = median(trips)
    share, bar = median(cells) / trip, 1.5
    total = RANKS * LINES
    return [
        Row(
            f"`pass` on {away}, as a share of a round trip",
            f"{share:.2f}",
            f"{milliseconds(median(cells))} beside {milliseconds(trip)}",
            f"≤ {bar:.2f}",
            share <= bar,
        ),
        Row(f"{total:,} lines of {away}, whole", f"{whole:,}", f"in {seconds(flood)}", f"{total:,}", whole == total),
    ]


def run() -> list[Row]:
    """Both ways, on an emulator of Modal."""
    with emulator(namespaces=possible()) as service, service.reached():
        service.ask("set", settings={"round_trip": ROUND_TRIP})
        return [*through("tunnel"), *through("queue")]


MODAL = Bench(
    name="modal",
    limit=180,
    how=(
        f"One container with {RANKS} ranks on the emulator of Modal (`tests/modal_emulator`), whose tunnels and queues "
        f"take {ROUND_TRIP * 1000:.0f} ms for a word and its answer. The clock runs in the client (`Session.run`, "
        f"`wait`) from sending `pass` to the end of the run: p50 of {TURNS}. The round trip beside it is that of a "
        f"question to the gateway (`Session.status`), p50 of as many. Then each rank prints {LINES:,} lines, and every "
        "line of the session's log is compared with what was printed; the time beside that is from sending to the end "
        "of the run."
    ),
    run=run,
)
