"""How long it takes to say where every rank is, and what it costs a training to be asked."""

from __future__ import annotations

import threading
import time

from modal_magic.session import Session
from modal_magic.state import LOOK_SECONDS
from tests.bench.figures import Bench, Row, at_most, median, milliseconds, percentile
from tests.bench.kernel import start_kernel, wait_until_warm
from tests.bench.training import SAID, SCRIPT

__all__ = ["STACKS"]

ASKED, PAIRS = 40, 4
OFTEN = 50.0
"""How often a second ranks are asked to see a cost at all."""
ASK = f"""\
import contextlib, io, time
times = []
for turn in range({ASKED}):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        began = time.perf_counter()
        get_ipython().run_line_magic("modal_stack", "--session asked")
        times.append(time.perf_counter() - began)
    assert "in barrier" in said.getvalue() and "rank 1:" in said.getvalue(), said.getvalue()
print("times", *times)
"""
WAITS = "import time, torch.distributed as dist\nwhile rank == 1: sum(range(1000))\ndist.barrier()"


def answers() -> list[float]:
    """Seconds of `%modal_stack` in a kernel of its own, while three ranks wait and one computes in Python."""
    with (
        Session(replicas=4, backend="local", session="asked") as session,
        start_kernel("%load_ext modal_magic") as kernel,
    ):
        wait_until_warm(kernel)
        run = session.run(WAITS)
        time.sleep(1)
        kernel.execute("%modal_stack --session asked")
        said = kernel.execute(ASK).text
        run.interrupt()
    return [float(word) for word in said.split()[1:]]


def rate(session: Session) -> float:
    """Steps per second of the training, as rank 0 says."""
    found = SAID.search(session.run(SCRIPT).wait(60).ranks[0].output)
    assert found
    return float(found[1])


def costs() -> list[float]:
    """The share of its rate that a training loses when its ranks are asked `OFTEN` times a second, of each pair."""
    lost: list[float] = []
    with Session(replicas=4, backend="local") as session:
        session.run("import sklearn.datasets").wait(60)
        for pair in range(PAIRS):
            rates: dict[bool, float] = {}
            for asked in (True, False)[:: 1 if pair % 2 else -1]:
                over = threading.Event()

                def ask(over: threading.Event = over) -> None:
                    while not over.wait(1 / OFTEN):
                        session.stacks(0)

                asker = threading.Thread(target=ask)
                if asked:
                    asker.start()
                rates[asked] = rate(session)
                over.set()
                if asked:
                    asker.join()
            lost.append(1 - rates[True] / rates[False])
    return lost


def run() -> list[Row]:
    """Both figures."""
    times, lost = answers(), costs()
    share = median(lost) / (OFTEN * LOOK_SECONDS)
    beside = f"asked {OFTEN:.0f} times a second: {100 * median(lost):.1f} %"
    return [
        at_most(
            "%modal_stack of 4 ranks, p50",
            median(times),
            0.05,
            milliseconds,
            f"p95 {milliseconds(percentile(times, 95))}",
        ),
        at_most(
            "what the watch over stalls costs a training step",
            share,
            0.01,
            lambda value: f"{100 * value:.2f} %",
            beside,
        ),
    ]


STACKS = Bench(
    name="stacks",
    limit=120,
    how=(
        f"`%modal_stack` {ASKED} times in a kernel, from the call to the printed text, while three ranks of another "
        "kernel's session wait in a barrier and one computes in Python. The cost: the training of `training`, "
        f"{PAIRS} times each with its ranks asked {OFTEN:.0f} times a second and without, by turns; the median loss, "
        f"divided by how much oftener that is than the watch asks (every {LOOK_SECONDS:g} s)."
    ),
    run=run,
)
