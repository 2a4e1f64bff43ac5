"""Plays a schedule to its end and holds the session to what must always be true."""

from __future__ import annotations

import gc
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

from modal_magic import protocol as p
from modal_magic.state import GROUP_SECONDS, RankState, SessionState
from modal_magic.view.failure import failure_sentence
from tests.simulation.judge import (
    judge_clocks,
    judge_closing,
    judge_goodbyes,
    judge_losses,
    judge_output,
    judge_records,
    judge_runs,
)
from tests.simulation.ranks import Step
from tests.simulation.schedule import Cell, draw
from tests.simulation.session import Simulation
from tests.simulation.world import Violation

__all__ = ["Played", "failing", "play"]

OVER = (SessionState.CLOSING, SessionState.CLOSED)
REST_SECONDS = 8.0
"""After the last cell and the last fault a session is at rest again within this time."""

NOTICED_SECONDS = 2.0
"""So long after a node is cut off all is known about it."""


@dataclass(frozen=True, slots=True)
class Played:
    """How a schedule went: `violation` is empty where all was as it must be."""

    seed: int
    violation: str
    lines: list[str]
    seconds: float
    events: int


def play(seed: int, traced: bool = False) -> Played:
    """Play the schedule of a seed."""
    with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
        return play_in(folder, seed, traced)


def play_in(folder: str, seed: int, traced: bool = False) -> Played:
    """Play the schedule of a seed, with the log in this folder."""
    schedule = draw(seed)
    violation = ""
    simulation = Simulation(schedule, folder, traced)
    try:
        act(simulation)
    except Violation as error:
        violation = str(error)
    except Exception as error:  # our own code must not raise, whatever befalls it
        last = traceback.extract_tb(error.__traceback__)[-1]
        violation = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
    finally:
        simulation.gateway.log.close()
    lines = [*schedule.lines(), *(simulation.world.trace or [])] if traced or violation else []
    return Played(seed, violation, lines, simulation.world.now, simulation.world.events)


def failing(first: int, count: int) -> list[Played]:
    """Those of so many schedules in which something went wrong."""
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)  # young objects die with their schedule
    try:
        with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
            return [found for seed in range(first, first + count) if (found := play_in(folder, seed)).violation]
    finally:
        gc.set_threshold(*before)


def act(simulation: Simulation) -> None:
    """Everything that happens, in its order."""
    world = simulation.world
    for number, cell in enumerate(simulation.schedule.cells):
        if not world.run(lambda: simulation.user.closed is None or closed(simulation), 10):
            raise Violation("no kernel attaches any more")
        if closed(simulation):
            break
        simulation.send(number)
        if not cell.hasty and not world.run(lambda run=cell.run: simulation.over(run), 30.0):  # type: ignore[misc]
            raise Violation(f"run {cell.run} does not end")
    world.run(lambda: False, 0.5)
    for run in sorted(simulation.taken):
        if not world.run(lambda run=run: run in simulation.ended or closed(simulation), 30.0):  # type: ignore[misc]
            raise Violation(f"run {run} does not end")
    world.run(lambda: not simulation.to_come or closed(simulation), 5.0)
    world.run(lambda: False, 0.15)  # a death is known
    faults = [peer.wire.last_fault for peer in (*simulation.agents, *simulation.clients) if peer.wire is not None]
    if max(faults) > 0:  # silence is noticed
        world.run(lambda: world.now > max(faults) + NOTICED_SECONDS or closed(simulation), 40.0)
    if not closed(simulation):
        come_to_rest(simulation)
    judge(simulation)
    end(simulation)


def closed(simulation: Simulation) -> bool:
    """Whether the session is over, or will be in a moment."""
    return not simulation.gateway_alive or simulation.gateway.machine.state in OVER


def come_to_rest(simulation: Simulation) -> None:
    """All is quiet: the session must be of use again, and the next cell must do what it says."""
    world, machine = simulation.world, simulation.gateway.machine
    restful = (SessionState.READY, SessionState.DEGRADED)

    def at_rest() -> bool:
        return closed(simulation) or (machine.state in restful and simulation.user.closed is None)

    launching = machine.state is SessionState.LAUNCHING  # a node that is gone before all are there may come back
    if not world.run(at_rest, REST_SECONDS + GROUP_SECONDS * launching):
        states = [str(rank.state) for rank in machine.ranks]
        raise Violation(f"the session does not come to rest: {machine.state}, its ranks {states}")
    if closed(simulation):
        return
    lost = [number for number, rank in enumerate(machine.ranks) if rank.state is RankState.LOST]
    if not simulation.gone_nodes and machine.state is not SessionState.READY:
        raise Violation(f"all nodes are there and the session is {machine.state}")
    steps = [Step("print"), *([Step("collective")] * (machine.state is SessionState.READY)), Step("print")]
    if not simulation.schedule.grouped:
        steps = [Step("print")]
    ranks = [rank for rank in range(simulation.schedule.world_size) if rank not in lost]
    if not ranks:
        return
    cell = Cell("probe", tuple(ranks) if lost else None, (dict.fromkeys(ranks, tuple(steps)),))
    simulation.run(cell, simulation.user)
    world.run(lambda: simulation.over("probe") or closed(simulation), 3.0)
    view = simulation.user.views["probe"]
    if view.status != "done" and not closed(simulation):
        raise Violation(f"the next cell is {view.status}: {failure_sentence(view) if view.ended else ''}")


def judge(simulation: Simulation) -> None:
    """Look at all that was said."""
    judge_runs(simulation)
    judge_losses(simulation)
    judge_output(simulation)
    judge_records(simulation)


def end(simulation: Simulation) -> None:
    """Every kernel goes; the lease ends the session, and nothing is left."""
    world, schedule = simulation.world, simulation.schedule
    simulation.ending = True
    if closed(simulation):
        judge_closing(simulation)
    for client in simulation.clients:
        simulation.go(client)
    patience = 2 * p.SILENCE_SECONDS + p.BEAT_SECONDS + 6.0  # gone are those that are silent; links may stand still
    if not world.run(lambda: not simulation.gateway_alive, schedule.lease + patience + 5.5):
        raise Violation("the session outlives its lease")
    if not world.run(lambda: not any(agent.alive for agent in simulation.agents), 20.0):
        raise Violation("an agent outlives its session")
    for agent in simulation.agents:
        if any(place.rank.alive for place in agent.places.values()):
            raise Violation("a worker outlives its agent")
    judge_goodbyes(simulation)
    judge_clocks(simulation)
