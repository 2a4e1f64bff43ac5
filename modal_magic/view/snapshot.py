"""A session at one moment, as data: what the browser draws and what saved outputs are made of. Pure."""

from __future__ import annotations

import msgspec

from modal_magic import protocol as p
from modal_magic.prices import Cost

__all__ = [
    "Failure",
    "Loop",
    "Metric",
    "RankRow",
    "SessionFacts",
    "Snapshot",
    "Stage",
    "columns",
    "where_it_runs",
    "without_courses",
]


class Loop(msgspec.Struct, frozen=True):
    """One loop of a rank: `step` of `total` (None: unknown), `rate` in steps a second."""

    label: str
    step: float
    total: float | None
    rate: float | None


class Metric(msgspec.Struct, frozen=True):
    """A metric of a rank: its newest value, and its course as steps and values, oldest first."""

    name: str
    value: float
    steps: tuple[float, ...]
    values: tuple[float, ...]


class RankRow(msgspec.Struct, frozen=True):
    """One rank. Times are seconds since 1970 by the clock of the session; `line` is a line of the cell, 0 for none.

    `fraction` is how far it is with its outermost loop, nested ones counted in, and `left` the seconds that this
    leaves; both are None where nothing tells. `waits_in` names the collective in which the rank waits for others since
    `waits_since`, and `awaited` says that others wait for it, since then. `function` is what it was last seen in, `cpu`
    percent of one core, `gpu` percent of its GPU; memory is in bytes. None is what is not known.
    """

    rank: int
    node: int
    pid: int
    state: str
    since: float
    seconds: float | None
    line: int
    loops: tuple[Loop, ...]
    fraction: float | None
    left: float | None
    metrics: tuple[Metric, ...]
    last_line: str
    waits_in: str = ""
    waits_since: float = 0.0
    awaited: bool = False
    function: str = ""
    cpu: int | None = None
    memory: int | None = None
    gpu: int | None = None
    gpu_memory: int | None = None
    gpu_total: int | None = None


class Stage(msgspec.Struct, frozen=True):
    """A stage of the session's start: `seconds` is None while it goes on, `node` is -1 where no node is meant.

    `began` is in seconds since 1970 by the clock of the session.
    """

    name: str
    node: int
    began: float
    seconds: float | None


class Failure(msgspec.Struct, frozen=True):
    """Why a run failed. `text` is the traceback without colours, `others` says what became of the other ranks."""

    rank: int
    title: str
    text: str
    others: str
    advice: str


class Snapshot(msgspec.Struct, frozen=True):
    """A session with its newest run, at `now` by the session's clock in seconds since 1970.

    `run_state` is queued, running, done, failed or interrupted, and empty where there was no run. `stall` says who
    waits for whom, empty where nobody does for long. `lease_left` is None while the lease does not run; `kernels`
    counts those that are attached. `stages` are those of the session's start, oldest first. `cost`
    is None where nothing is billed, or the prices are not known.
    """

    session: str
    where: str
    state: str
    now: float
    run: str
    run_state: str
    cell: int
    began: float
    seconds: float | None
    left: float | None
    kernels: int
    lease: float
    lease_left: float | None
    failure: Failure | None
    ranks: tuple[RankRow, ...]
    stall: str = ""
    stages: tuple[Stage, ...] = ()
    cost: Cost | None = None


class SessionFacts(msgspec.Struct, frozen=True):
    """What is known of a session beside its run."""

    session: str
    where: str
    world_size: int
    ranks_per_node: int
    state: str = "ready"
    pids: tuple[int, ...] = ()
    states: tuple[str, ...] = ()
    states_since: float = 0.0
    kernels: int = 1
    lease: float = 0.0
    lease_left: float | None = None
    stages: tuple[p.Stage, ...] = ()
    cost: Cost | None = None


def where_it_runs(backend: str, nodes: int, ranks_per_node: int, gpu: str | None) -> str:
    """`local, 4 ranks` or `Modal 2×H100:8`."""
    if backend == "local":
        ranks = nodes * ranks_per_node
        return f"local, {ranks} rank{'s' * (ranks != 1)}"
    return f"{backend.capitalize()} {nodes}×{gpu or 'CPU'}"


def columns(shot: Snapshot) -> tuple[bool, list[str]]:
    """Whether any rank tells of steps, and the metrics: loss first, then in the order in which they were told."""
    names = dict.fromkeys(metric.name for row in shot.ranks for metric in row.metrics)
    return any(row.loops for row in shot.ranks), sorted(names, key=lambda name: name != "loss")


def without_courses(shot: Snapshot) -> Snapshot:
    """A snapshot without the courses of its metrics, which are most of it where there are many ranks."""
    rows = tuple(
        msgspec.structs.replace(
            row, metrics=tuple(msgspec.structs.replace(metric, steps=(), values=()) for metric in row.metrics)
        )
        for row in shot.ranks
    )
    return msgspec.structs.replace(shot, ranks=rows)
