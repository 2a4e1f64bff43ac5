"""What a cell costs on ranks that are up: `pass`, beside the same kernel's own `pass`."""

from __future__ import annotations

from pathlib import Path

from modal_magic import registry
from tests.bench import floor
from tests.bench.figures import Bench, Row, at_most, median, milliseconds, percentile
from tests.bench.kernel import Kernel, start_kernel, wait_until_warm
from tests.bench.memory import find
from tests.bench.monarch import MISSING, call, start_monarch
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


def more(taken: tuple[list[float], list[float]]) -> float:
    """By how much the median of the cells exceeds that of a bare `pass`."""
    return median(taken[0]) - median(taken[1])


def figures(kernel: Kernel, ranks: int) -> tuple[float, list[Row]]:
    """The seconds that a `pass` on so many ranks takes more than a bare one, and the rows that tell of it."""
    session = f"of-{ranks}"
    kernel.execute(f"%%modal_distributed --session {session} --replicas {ranks} --backend local\npass")
    wait_until_warm(kernel)  # the next session's zygote, which would take one of the cores
    taken = in_a_row(kernel, "%%modal_distributed\npass")
    title = f"`pass` on {ranks} ranks, more than a bare `pass`"
    rows = [
        at_most(title, more(taken), BARS[ranks], milliseconds, in_all(*taken)),
        processors(kernel, session, ranks),
    ]
    kernel.execute("%modal_stop")
    return more(taken), rows


def one_node(kernel: Kernel) -> Row:
    """The same of 4 ranks on one node, which have one agent."""
    kernel.execute("%%modal_distributed --session node --nproc-per-node 4 --backend local\npass")
    wait_until_warm(kernel)
    taken = in_a_row(kernel, "%%modal_distributed\npass")
    kernel.execute("%modal_stop")
    return Row("`pass` on 4 ranks of one node, likewise", milliseconds(more(taken)), in_all(*taken))


def shells(ranks: int) -> Row:
    """The same of shells that the kernel wakes itself: what no way to ranks can be below on this machine."""
    with floor.start_shells(ranks) as kernel:
        taken = in_a_row(kernel, f"{floor.CELL}pass")
    title = f"`pass` on {ranks} shells that the kernel wakes itself (the floor), likewise"
    return Row(title, milliseconds(more(taken)), in_all(*taken))


def used(pids: list[int]) -> tuple[float, int]:
    """The seconds that all threads of these processes have had on processors, and how often they were put on one.

    Linux alone tells that: /proc/PID/task/*/schedstat.
    """
    found = [thread / "schedstat" for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    told = [path.read_text().split() for path in found]
    return sum(int(nanoseconds) for nanoseconds, _, _ in told) / 1e9, sum(int(times) for _, _, times in told)


def processors(kernel: Kernel, session: str, ranks: int) -> Row:
    """What a `pass` costs each process in time on processors, and how often its threads are woken.

    The kernel's own, of a bare `pass`, is not counted.
    """
    workers, zygote = find(session)
    gateway = registry.read(session).pid
    ours = {"kernel": [kernel.pid], "gateway": [gateway], "ranks": [worker.pid for worker in workers]}
    known = {pid for pids in ours.values() for pid in pids}
    ours["agents"] = [child.pid for child in zygote.children() if child.pid not in known]
    each = dict.fromkeys(ours, (0.0, 0.0))
    for source, sign in (("%%modal_distributed\npass", 1), ("pass", -1)):
        before = {name: used(pids) for name, pids in ours.items()}
        for _ in range(COUNT):
            kernel.execute(source)
        for name, pids in ours.items():
            more = [sign * (now - then) / COUNT for now, then in zip(used(pids), before[name], strict=True)]
            each[name] = each[name][0] + more[0], each[name][1] + more[1]
    beside = ", ".join(f"{name} {milliseconds(seconds)}" for name, (seconds, _) in each.items())
    seconds, times = (sum(values) for values in zip(*each.values(), strict=True))
    title = f"`pass` on {ranks} ranks, time of processors in all"
    return Row(title, milliseconds(seconds), f"{beside}; threads woken {times:.0f} times")


def ipyparallel() -> tuple[float | None, Row]:
    """The same of `%%px`, whose cells do not always end."""
    title = "`pass` on 4 engines of ipyparallel, `%%px`, likewise"
    try:
        with start_ipyparallel(4) as kernel:
            taken = in_a_row(kernel, f"{PX}\npass")
    except TimeoutError as error:
        return None, Row(title, "", str(error))
    return more(taken), Row(title, milliseconds(more(taken)), in_all(*taken))


def monarch(ranks: int) -> tuple[float | None, Row]:
    """The same of actors of Monarch that run the text."""
    title = f"`pass` on {ranks} actors of Monarch, likewise"
    try:
        with start_monarch(ranks) as kernel:
            if kernel is None:
                return None, Row(title, "", MISSING)
            taken = in_a_row(kernel, call("pass"))
    except (AssertionError, TimeoutError) as error:  # it is there, and cannot be used
        return None, Row(title, "", str(error).strip().splitlines()[-1][:80])
    return more(taken), Row(title, milliseconds(more(taken)), in_all(*taken))


def ratio(ranks: int, ours: float, peers: list[float | None]) -> list[Row]:
    """Ours as a share of the best peer's, where there is one."""
    best = min((peer for peer in peers if peer is not None), default=None)
    if best is None:
        return []
    title = f"`pass` on {ranks} ranks, more than a bare `pass`, as a share of the best peer's"
    return [Row(title, f"{ours / best:.2f}", f"{milliseconds(ours)} beside {milliseconds(best)}")]


def run() -> list[Row]:
    """Ours on 4 and 8 ranks, then the peers'."""
    with start_kernel("%load_ext modal_magic") as kernel:
        ours = {ranks: figures(kernel, ranks) for ranks in BARS}
        node = one_node(kernel)
    px, px_row = ipyparallel()
    actors = {ranks: monarch(ranks) for ranks in BARS}
    rows = [row for _, told in ours.values() for row in told]
    rows += [node, *map(shells, BARS), px_row, *(row for _, row in actors.values())]
    for ranks, (seconds, _) in ours.items():
        rows += ratio(ranks, seconds, [actors[ranks][0], px if ranks == 4 else None])
    return rows


PASSES = Bench(
    name="pass",
    limit=240,
    how=(
        "A real kernel; the client's clock runs from sending the cell to the kernel's idle. `%%modal_distributed` with "
        f"`pass` {COUNT} times in a row, then a bare `pass` as often, each after {WARM_UP} that are not counted; p50"
        " of the one less p50 of the other. Likewise `%%px` of ipyparallel, and actors of Monarch that `exec` the text,"
        " in kernels of their own. The floor: as many processes with an IPython shell each, which a magic of a kernel"
        " of its own wakes over socket pairs, with no gateway, agent, key or log between. Time of processors: that of"
        " all threads of all processes of the session"
        " (`/proc/PID/task/*/schedstat`) in as many cells, less that in as many bare ones; likewise how"
        " often they were woken."
    ),
    run=run,
)
