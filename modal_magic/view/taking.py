"""How a snapshot is taken: from what is known of a session and its newest run. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from modal_magic import protocol as p
from modal_magic.view.failure import cause_of, consequences, failure_sentence, strip_colours
from modal_magic.view.model import RankView, RunView, last_line
from modal_magic.view.snapshot import Failure, Loop, Metric, RankRow, SessionFacts, Snapshot, Stage
from modal_magic.view.stack import stall_sentence

__all__ = ["snapshot"]

WAITING_SECONDS = 1.0
"""A rank that is in a collective for so long is shown as waiting there."""
STILL_SECONDS = 3.0
"""A bar that has not moved for so long, and for three of its steps, has the rate 0."""


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
    return Loop(last_line(bar.label), bar.current, bar.total, rate)


def _outlook(loops: Sequence[Loop], state: str) -> tuple[float | None, float | None]:
    """How far a rank is, and the seconds left: by the outermost loop, to which the inner ones add parts of a step.

    Of a rank that goes on after its loops it is not known what is left.
    """
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
    return inner, steps / pace.rate if steps > 0 else None


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
