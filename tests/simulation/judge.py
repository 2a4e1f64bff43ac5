"""What must be true of a session, whatever has befallen it."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.view.failure import failure_sentence
from tests.simulation.session import Simulation
from tests.simulation.world import Violation

__all__ = ["judge_losses", "judge_output", "judge_records", "judge_runs"]

CONTROL_SECONDS = 2.0
"""From the first trouble of a run to control."""
CUT_SECONDS = 3.7
"""The same where a node is cut off: its silence is noticed first, and what it left in a collective is freed then."""
LOST, EXCEPTION, COMMUNICATION = range(3)


def judge_runs(simulation: Simulation) -> None:
    """Every run ends once, in time, and names its first true failure."""
    ends = [event.run for _, event in simulation.logged if isinstance(event, p.RunEnded)]
    if len(ends) != len(set(ends)):
        raise Violation(f"a run ends twice: {ends}")
    for run, (at, event) in simulation.ended.items():
        judge_time(simulation, run, at)
        if event.status == "failed" and run in simulation.submitted:
            judge_cause(simulation, run, at, event)


def troubles(simulation: Simulation, run: str, until: float) -> list[tuple[float, int, int]]:
    """What truly went wrong on the ranks of a run: when, how bad, and where."""
    found = []
    logged = simulation.logged
    begun = next((index for index, (_, event) in enumerate(logged) if is_begun(event, run)), len(logged))
    for agent in simulation.agents:
        found += [
            (at, COMMUNICATION if kind == "communication" else EXCEPTION, rank)
            for at, rank, of, kind in agent.failures
            if of == run and at < until
        ]
        for at, rank, forced in agent.deaths:
            if forced or at > until or rank not in simulation.programs[run] or agent.ends.get((run, rank), at) < at:
                continue
            if any(isinstance(event, p.Lost) and event.rank == rank and when >= at for when, event in logged[:begun]):
                continue  # all knew before the run began
            found.append((at, LOST, rank))
    return sorted(found)


def is_begun(event: p.Event, run: str) -> bool:
    """Whether this is the beginning of a run."""
    return isinstance(event, p.Submitted) and event.run == run


def judge_time(simulation: Simulation, run: str, at: float) -> None:
    """Control comes back within the bound."""
    first = [when for when, _, _ in troubles(simulation, run, at)[:1]]
    if run in simulation.interrupted:
        first.append(simulation.interrupted[run])
    if not first:
        return
    latest = max(min(first), simulation.submitted.get(run, 0.0)) + CONTROL_SECONDS + 4 * simulation.schedule.slowest
    sent = simulation.sent[run][0]
    for agent in simulation.agents:
        assert agent.wire is not None
        if agent.wire.last_fault > sent:
            latest = max(latest, agent.wire.last_fault + CUT_SECONDS)
    if at > latest:
        raise Violation(f"run {run} ended {at - min(first):.3f} s after its first trouble")


def judge_cause(simulation: Simulation, run: str, at: float, event: p.RunEnded) -> None:
    """A lost rank goes before an exception, and that before a connection error."""
    found = troubles(simulation, run, at)
    per_node = simulation.schedule.ranks_per_node
    doubtful = {rank for node in simulation.faulty_nodes for rank in range(node * per_node, (node + 1) * per_node)}
    if not found:
        if not doubtful:
            raise Violation(f"run {run} has failed, and nothing was wrong")
        return
    worst = min(kind for _, kind, _ in found)
    true = {rank for _, kind, rank in found if kind == worst}
    named = event.culprits[:1]
    if not named or named[0] not in true | doubtful:
        raise Violation(f"run {run} names rank {named}, and it was one of {sorted(true)}: {found}")


def judge_losses(simulation: Simulation) -> None:
    """A rank is a new process only after it was said to be lost, and who is said to keep its variables has them."""
    pids: dict[int, int] = {}
    for _, event in simulation.logged:
        if isinstance(event, p.Launched):
            if event.rank in pids:
                raise Violation(f"rank {event.rank} is started anew, and nobody said that it was lost")
            pids[event.rank] = event.pid
        elif isinstance(event, p.Lost):
            pids.pop(event.rank, None)
    for client in simulation.clients:
        for run, view in client.views.items():
            if run not in simulation.submitted or view.refusal or client.closed is not None or not view.ended:
                continue
            gone = lost_during(simulation, run) & set(view.ranks)
            told = {rank.rank for rank in view.ranks.values() if rank.lost}
            if gone != told:
                raise Violation(f"in run {run} ranks {gone} were lost, told is {told}: {failure_sentence(view)}")


def lost_during(simulation: Simulation, run: str) -> set[int]:
    """The ranks whose loss was logged between a run's beginning and its end."""
    found: set[int] = set()
    begun = False
    for _, event in simulation.logged:
        if isinstance(event, p.Submitted) and event.run == run:
            begun = True
        elif isinstance(event, p.RunEnded) and event.run == run:
            break
        elif isinstance(event, p.Lost) and begun:
            found.add(event.rank)
    return found


def judge_output(simulation: Simulation) -> None:
    """What ranks wrote is in the log, once and in order; of a node that was cut off some can be missing."""
    if not simulation.gateway_alive:
        return
    logged: dict[tuple[str, int], list[str]] = {}
    for _, event in simulation.logged:
        if isinstance(event, p.Output):
            logged.setdefault((event.run, event.rank), []).append(event.text)
    for agent in simulation.agents:
        for key, written in agent.written.items():
            had = logged.pop(key, [])
            if had == written or (agent.node_rank in simulation.faulty_nodes and in_order(had, written)):
                continue
            raise Violation(f"{key} wrote {written}, and the log has {had}")
    if logged:
        raise Violation(f"the log has what nobody wrote: {logged}")


def in_order(part: list[str], whole: list[str]) -> bool:
    """Whether the one is the other with some left out."""
    rest = iter(whole)
    return all(text in rest for text in part)


def judge_records(simulation: Simulation) -> None:
    """Who is attached has had every record of the log, and so every word of the ranks, once."""
    if not simulation.gateway_alive:
        return
    wanted = [event for _, event in simulation.logged]
    for client in simulation.clients:
        if client.closed is None and client.attached and client.wire is not None:
            seen = client.conversation
            simulation.world.run(lambda seen=seen: seen.seen == len(wanted), 5.0)  # type: ignore[misc]
            known = simulation.gateway.clients.present(client.identity)
            if known is None or known.replay is None:
                raise Violation(f"{client.name} is attached, and the gateway does not know it")
            came = known.replay.until  # before it came, output that somebody has shown is left out
            had = [record.event for record in client.records if record.sequence > came]
            if had[: len(wanted) - came] != wanted[came:]:
                raise Violation(f"{client.name} has had {len(had)} of {len(wanted) - came} records")
