"""A session at one moment, as data: what the browser draws and what saved outputs are made of. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from modal_magic import protocol as p
from modal_magic.prices import Cost
from modal_magic.view.failure import cause_of, consequences, failure_sentence, strip_colours
from modal_magic.view.model import RankView, RunView
from modal_magic.view.stack import stall_sentence

__all__ = [
    "Failure",
    "Loop",
    "Metric",
    "RankRow",
    "SessionFacts",
    "Snapshot",
    "Stage",
    "columns",
    "snapshot",
    "where_it_runs",
    "without_courses",
]

WAITING_SECONDS = 1.0
"""A rank that is in a collective for so long is shown as waiting there."""
STILL_SECONDS = 3.0
"""A bar that has not moved for so long, and for three of its steps, has the rate 0."""


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


def snapshot(facts: SessionFacts, run: RunView | None, now: float) -> Snapshot:
    """The picture of a session at `now`; `run` is its newest run."""
    ranks = tuple(_row(facts, run, number, now) for number in range(facts.world_size))
    lefts = [row.left for row in ranks if row.left is not None]
    return Snapshot(
        session=facts.session,
        where=facts.where,
        state=facts.state,
        now=now,
        run=run.run if run is not None else "",
        run_state=run.status if run is not None else "",
        cell=run.cell if run is not None else 0,
        began=run.began if run is not None else 0.0,
        seconds=run.seconds if run is not None else None,
        left=max(lefts) if lefts else None,
        kernels=facts.kernels,
        lease=facts.lease,
        lease_left=facts.lease_left,
        failure=_failure(run, facts.world_size) if run is not None and run.status == "failed" else None,
        ranks=ranks,
        stall=stall_sentence(run.stall) if run is not None and run.stall is not None else "",
        stages=tuple(Stage(stage.name, stage.node, stage.began, stage.seconds) for stage in facts.stages),
        cost=facts.cost,
    )


def columns(shot: Snapshot) -> tuple[bool, str | None]:
    """Whether any rank tells of steps, and the metric that has a column: loss, or else the first there is."""
    names = [metric.name for row in shot.ranks for metric in row.metrics]
    name = "loss" if "loss" in names else names[0] if names else None
    return any(row.loops for row in shot.ranks), name


def _row(facts: SessionFacts, run: RunView | None, number: int, now: float) -> RankRow:
    view = run.ranks.get(number) if run is not None else None
    node, pid = number // facts.ranks_per_node, facts.pids[number] if number < len(facts.pids) else 0
    if view is None:
        state = facts.states[number] if number < len(facts.states) else "idle"
        return RankRow(number, node, pid, state, facts.states_since, None, 0, (), None, None, (), "")
    loops = tuple(_loop(bar, view, now) for bar in _shown_bars(view))
    fraction, left = _outlook(loops, view.state)
    metrics = tuple(
        Metric(name, series.last[1], *_unzip(series.points()))
        for name, series in view.gauges.curves.items()
        if series.last is not None
    )
    running = view.state == "running"
    usage = view.gauges.usage or p.Usage(number, "")
    where = usage.where if running and usage.where is not None else p.Whereabouts()
    waits_in, waits_since = _waits_in(run, view, where) if running else ("", 0.0)
    awaited = running and any(stack.rank == number for stack in _missing(run))
    if awaited and run is not None:
        waits_since = run.awaited_since
    ended_at = view.error.line if view.error is not None else _line_in(view.where)
    line = ended_at or _line_now(run, number) or where.line
    return RankRow(
        rank=number,
        node=node,
        pid=pid,
        state=view.state,
        since=view.since,
        seconds=view.seconds,
        line=line,
        loops=loops,
        fraction=fraction,
        left=left,
        metrics=metrics,
        last_line=view.last_line or (view.error.name if view.error is not None else ""),
        waits_in=waits_in,
        waits_since=waits_since,
        awaited=awaited,
        function=where.function if line == where.line else "",
        cpu=usage.cpu if running else None,
        memory=usage.memory,
        gpu=usage.gpu if running else None,
        gpu_memory=usage.gpu_memory,
        gpu_total=usage.gpu_total,
    )


def _missing(run: RunView | None) -> list[p.RankStack]:
    return run.stall.missing if run is not None and run.stall is not None else []


def _waits_in(run: RunView | None, view: RankView, where: p.Whereabouts) -> tuple[str, float]:
    """`all_reduce #77` where the rank waits in it, and since when."""
    found = where if where.since >= WAITING_SECONDS and view.moved < view.sampled else p.Whereabouts()
    since = round(view.sampled - where.since, 1)
    for stack in run.stall.waiting if run is not None and run.stall is not None else []:
        if stack.rank == view.rank and stack.where is not None and stack.where.collective:
            found = stack.where
            since = since if where.collective == found.collective else 0.0
    if not found.collective:
        return "", 0.0
    return f"{found.collective} #{found.sequence}" if found.sequence else found.collective, max(0.0, since)


def _line_now(run: RunView | None, number: int) -> int:
    """The line of the cell at which the others wait for this rank."""
    return next((stack.where.line for stack in _missing(run) if stack.rank == number and stack.where is not None), 0)


def _unzip(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(step for step, _ in points), tuple(value for _, value in points)


def _line_in(where: str) -> int:
    """The line in `all_reduce at cell line 3`."""
    number = where.rpartition("cell line ")[2]
    return int(number) if number.isdecimal() else 0


def _shown_bars(view: RankView) -> list[p.Progress]:
    """The loops to be shown, outermost first. What `report` tells counts alone where it tells of all the work.

    A loop of as many steps is the better witness: a step is often reported by its number from 0.
    """
    bars = [view.gauges.bars[number] for number in sorted(view.gauges.bars)]
    reported = [bar for bar in bars if bar.bar == 0]
    loops = [bar for bar in bars if bar.bar != 0]
    if not reported or any(loop.total == reported[0].total for loop in loops):
        return loops
    return reported if reported[0].total is not None or not loops else loops


def _loop(bar: p.Progress, view: RankView, now: float) -> Loop:
    rate = bar.rate
    if rate is not None and view.state == "running" and now - view.moved > max(STILL_SECONDS, 3 / max(rate, 1e-9)):
        rate = 0.0
    return Loop(bar.label, bar.current, bar.total, rate)


def _outlook(loops: Sequence[Loop], state: str) -> tuple[float | None, float | None]:
    """How far a rank is, and the seconds left: by the outermost loop, to which the inner ones add parts of a step."""
    inner: float = 0.0
    for loop in reversed(loops):
        if not loop.total:
            inner = 0.0
            continue
        inner = min(1.0, (loop.step + min(1.0, inner)) / loop.total)
    if not loops or not loops[0].total:
        return None, None
    if state != "running":
        return inner, None
    pace = next((loop for loop in reversed(loops) if loop.rate and loop.total), None)
    if pace is None or pace.rate is None or pace.total is None:
        return inner, None
    steps = pace.total - pace.step
    for loop in loops[: loops.index(pace)]:
        if loop.total:
            steps += max(0.0, loop.total - loop.step - 1) * pace.total
            break
    return inner, steps / pace.rate


def _failure(run: RunView, world_size: int) -> Failure:
    cause, rest, advice = cause_of(run), consequences(run), ""
    view = run.ranks.get(run.culprits[0]) if run.culprits else None
    if view is not None and view.error is not None:
        line = f"correct line {view.error.line}" if view.error.line else "correct the cell"
        advice = f"{line} and run the cell again: the ranks are warm."
    elif view is not None:
        advice = "%modal_logs shows what the rank wrote last."
    text = "\n".join(view.error.traceback) if view is not None and view.error is not None else ""
    title = cause or failure_sentence(run)
    return Failure(
        rank=view.rank if view is not None else -1,
        title=title[:1].upper() + title[1:],
        text=strip_colours(text),
        others=rest,
        advice=advice,
    )


def without_courses(shot: Snapshot) -> Snapshot:
    """A snapshot without the courses of its metrics, which are most of it where there are many ranks."""
    rows = tuple(
        msgspec.structs.replace(
            row, metrics=tuple(msgspec.structs.replace(metric, steps=(), values=()) for metric in row.metrics)
        )
        for row in shot.ranks
    )
    return msgspec.structs.replace(shot, ranks=rows)
