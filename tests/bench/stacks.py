"""How long it takes to say where every rank is, and what it costs a training to be asked."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from modal_magic.sessions.session import Session
from tests.bench.figures import Bench, Row, at_most, median, milliseconds, percentile
from tests.bench.kernel import start_kernel, wait_until_warm
from tests.bench.training import SCRIPT, STEPS, WARM_UP

__all__ = ["STACKS"]

ASKED = 40
WINDOW = 10.0
"""How many seconds of a training are looked at."""
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
TRAINS = f"""\
import os, threading
(control,) = [thread.native_id for thread in threading.enumerate() if thread.name == "modal_magic control"]
{SCRIPT}""".replace(f"range({WARM_UP + STEPS})", "range(10**9)").replace(
    "        dist.barrier()\n        began", "        print('trains', os.getpid(), control, flush=True)\n        began"
)
SAID = re.compile(r"trains (\d+) (\d+)")


def answers() -> list[float]:
    """Seconds of `%modal_stack` in a kernel of its own, while three ranks wait and one computes in Python."""
    with (
        Session(replicas=4, backend="local", session="asked") as session,
        start_kernel("%load_ext modal_magic") as kernel,
    ):
        wait_until_warm(kernel)
        run = session.run(WAITS)
        while sum(stack.where is not None and stack.where.collective == "barrier" for stack in session.stacks()) < 3:
            pass
        kernel.execute("%modal_stack --session asked")
        said = kernel.execute(ASK).text
        run.interrupt()
    return [float(word) for word in said.split()[1:]]


def used(threads: Iterable[str]) -> float:
    """How long threads have had a processor, by the system's own account (Linux), in seconds."""
    return sum(int(Path(thread, "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def threads_of(pids: Iterable[int]) -> list[str]:
    """All threads of these processes, as the system has them."""
    return [str(thread) for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]


def share(threads: list[str]) -> float:
    """The share of this machine's processors that threads take for `WINDOW` seconds."""
    before = used(threads)
    time.sleep(WINDOW)
    return (used(threads) - before) / (WINDOW * len(os.sched_getaffinity(0)))


def costs() -> tuple[float, float]:
    """What watching takes of the machine while 4 ranks train and say nothing; what the beats take besides, always."""
    with Session(replicas=4, backend="local") as session:
        session.run("import sklearn.datasets").wait(60)
        ranks = {rank.pid for rank in session.status().ranks}
        zygote = psutil.Process(session.connection.pid).parent()
        assert zygote is not None
        beside = threads_of(child.pid for child in zygote.children() if child.pid not in ranks)
        beats = share(beside)
        run = session.run(TRAINS)
        while len(found := SAID.findall("".join(view.output for view in run.ranks.values()))) < 4:
            run.events(1.0)
        taken = share([*beside, *(f"/proc/{pid}/task/{control}" for pid, control in found)])
        run.interrupt()
    return taken - beats, beats


def run() -> list[Row]:
    """Both figures."""
    times, (watching, beats) = answers(), costs()
    return [
        at_most(
            "%modal_stack of 4 ranks, p50",
            median(times),
            0.05,
            milliseconds,
            f"p95 {milliseconds(percentile(times, 95))}",
        ),
        at_most(
            "what watching a training takes of the processors",
            watching,
            0.01,
            percent,
            f"the beats of 4 agents and a gateway {percent(beats)}",
        ),
    ]


def percent(value: float) -> str:
    """`0.25 %`."""
    return f"{100 * value:.2f} %"


STACKS = Bench(
    name="stacks",
    limit=120,
    how=(
        f"`%modal_stack` {ASKED} times in a kernel, from the call to the printed text, while three ranks of another "
        "kernel's session wait in a barrier and one computes in Python. The cost: 4 ranks train sklearn's digits as in "
        f"`training`. What their control threads, 4 agents and the gateway use of the processors in {WINDOW:g} s of it "
        "(for the watch over stalls and for what the views show), less what these use when no cell runs (for beats), "
        "as a share of all that the machine has. Where ranks use all of it, their steps take so much longer. It is "
        "taken from the system's own account of each thread, so other load shows little."
    ),
    run=run,
)
