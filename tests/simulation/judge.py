"""What must be true of a session, whatever has befallen it."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.state import CLOSING_SECONDS, SessionState
from modal_magic.state.lease import warning_seconds
from modal_magic.view.failure import failure_sentence
from tests.simulation.session import CLOCK_SECONDS, Attempt, Simulation
from tests.simulation.world import Violation

__all__ = [
    "judge_clocks",
    "judge_closing",
    "judge_goodbyes",
    "judge_losses",
    "judge_output",
    "judge_records",
    "judge_runs",
]

CONTROL_SECONDS = 2.0
"""From the first trouble of a run to control."""
CUT_SECONDS = 3.7
"""The same where a node is cut off: its silence is noticed first, and what it left in a collective is freed then."""
LOST, EXCEPTION, COMMUNICATION = range(3)


def judge_runs(simulation: Simulation) -> None:
    """Every run ends once, in time, names its first true failure, and is tried again where that was wanted."""
    ends = [attempt.run for attempt in simulation.attempts if isinstance(attempt.event, p.RunEnded)]
    if len(ends) != len(set(ends)):
        raise Violation(f"a run ends twice: {ends}")
    for attempt in simulation.attempts:
        if attempt.begun is None:
            continue
        found = troubles(simulation, attempt)
        judge_time(simulation, attempt, found)
        if isinstance(attempt.event, p.RunRetried):
            judge_retry(simulation, attempt, attempt.event, found)
        elif attempt.event.status == "failed" and not attempt.closing:  # the end of a session waits for no verdict
            judge_cause(simulation, attempt, attempt.event, found)
    judge_order(simulation)


def troubles(simulation: Simulation, attempt: Attempt) -> list[tuple[float, int, int]]:
    """What truly went wrong on the ranks in an attempt of a run: when, how bad, and where."""
    found = []
    logged, run, number, until = simulation.logged, attempt.run, attempt.number, attempt.ended
    begun = next((index for index, (_, event) in enumerate(logged) if is_begun(event, attempt)), len(logged))
    for agent in simulation.agents:
        found += [
            (at, COMMUNICATION if kind == "communication" else EXCEPTION, rank)
            for at, rank, of, its_number, kind in agent.failures
            if of == run and its_number == number and at < until
        ]
        for at, rank, forced in agent.deaths:
            if forced or at > until or rank not in simulation.programs[run][0]:
                continue
            if agent.ends.get((run, number, rank), at) < at:
                continue
            if any(isinstance(event, p.Lost) and event.rank == rank and when >= at for when, event in logged[:begun]):
                continue  # all knew before it began
            found.append((at, LOST, rank))
    return sorted(found)


def is_begun(event: p.Event, attempt: Attempt) -> bool:
    """Whether this is the beginning of an attempt."""
    return isinstance(event, p.Submitted) and event.run == attempt.run and event.attempt == attempt.number


def judge_time(simulation: Simulation, attempt: Attempt, found: list[tuple[float, int, int]]) -> None:
    """Control comes back within the bound, after trouble, an interrupt or the time limit."""
    run, begun = attempt.run, attempt.begun or 0.0
    timeout = simulation.cells[run].timeout
    first = [when for when, _, _ in found[:1]]
    if run in simulation.interrupted:
        first.append(simulation.interrupted[run])
    if timeout is not None:
        first.append(begun + timeout)
        if "--timeout" in getattr(attempt.event, "reason", "") and attempt.ended < begun + timeout:
            raise Violation(f"run {run} reached its time limit of {timeout} s after {attempt.ended - begun} s")
    if not first:
        return
    latest = max(min(first), begun) + CONTROL_SECONDS + 4 * simulation.schedule.slowest
    sent = simulation.sent[run][0]
    for agent in simulation.agents:
        assert agent.wire is not None
        if agent.wire.last_fault > sent:
            latest = max(latest, agent.wire.last_fault + CUT_SECONDS)
    if attempt.ended > latest:
        raise Violation(f"run {run} ended {attempt.ended - min(first):.3f} s after its first trouble")


def doubtful_ranks(simulation: Simulation) -> set[int]:
    """The ranks of nodes that were cut off or died: what was wrong there, and when, cannot be said from outside."""
    return {rank for node in simulation.faulty_nodes for rank in simulation.ranks_of(node)}


def judge_cause(
    simulation: Simulation, attempt: Attempt, event: p.RunEnded, found: list[tuple[float, int, int]]
) -> None:
    """A lost rank goes before an exception, and that before a connection error."""
    doubtful = doubtful_ranks(simulation)
    if not found:
        if not doubtful:
            raise Violation(f"run {attempt.run} has failed, and nothing was wrong")
        return
    worst = min(kind for _, kind, _ in found)
    true = {rank for _, kind, rank in found if kind == worst}
    named = event.culprits[:1]
    if not named or named[0] not in true | doubtful:
        raise Violation(f"run {attempt.run} names rank {named}, and it was one of {sorted(true)}: {found}")
    retries = simulation.cells[attempt.run].retries
    wanted = retries is not None and attempt.number <= retries.max_retries and (worst == LOST or retries.on_error)
    if wanted and attempt.run not in simulation.interrupted and not simulation.restarts and not doubtful:
        raise Violation(f"run {attempt.run} failed in attempt {attempt.number}, and is not tried again")


def judge_retry(
    simulation: Simulation, attempt: Attempt, event: p.RunRetried, found: list[tuple[float, int, int]]
) -> None:
    """A run is tried again only where that was wanted, for a cause that counts, after its delay, as the next run."""
    run, retries = attempt.run, simulation.cells[attempt.run].retries
    if retries is None or attempt.number > retries.max_retries:
        raise Violation(f"run {run} is tried again, and may not be")
    worst = min((kind for _, kind, _ in found), default=None)
    if worst != LOST and not doubtful_ranks(simulation) and not (retries.on_error and found):
        raise Violation(f"run {run} is tried again, and no rank was lost: {found}")
    delay = min(retries.initial_delay * retries.backoff_coefficient ** (attempt.number - 1), retries.max_delay)
    if simulation.interrupted.get(run, attempt.ended) < attempt.ended:
        raise Violation(f"run {run} is tried again, and somebody has interrupted it")
    for at, later in simulation.logged:
        if at < attempt.ended or not isinstance(later, p.Submitted):
            continue
        if at == attempt.ended and (later.run, later.attempt) == (run, attempt.number):
            continue  # one that was lost as soon as it began
        if (later.run, later.attempt) != (run, attempt.number + 1):
            if run not in simulation.ended or at < simulation.ended[run][0]:
                raise Violation(f"run {later.run} comes between two attempts of {run}")
        elif at < attempt.ended + delay - 1e-6:
            raise Violation(f"run {run} is tried again after {at - attempt.ended} s, not {delay} s")
        return


def judge_order(simulation: Simulation) -> None:
    """No run begins while another goes on, or when it is over itself."""
    going, over = "", set()
    for _, event in simulation.logged:
        match event:
            case p.Submitted(run=run):
                if going or run in over:
                    raise Violation(f"run {run} begins, and {going or 'it'} is {'going on' if going else 'over'}")
                going = run
            case p.RunRetried(run=run):
                going = ""
            case p.RunEnded(run=run):
                over.add(run)
                going = "" if going == run else going


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
            told = {rank.rank for rank in view.ranks.values() if rank.lost} | view.emptied
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
    doubtful = doubtful_ranks(simulation)
    if simulation.gateway.machine.state in (SessionState.CLOSING, SessionState.CLOSED):
        simulation.world.run(lambda: not simulation.gateway_alive, CLOSING_SECONDS + CLOCK_SECONDS)
        # An agent that leaves says nothing again: what a connection lost in that moment is lost.
        doubtful |= {
            rank for agent in simulation.agents if agent.disturbed for rank in simulation.ranks_of(agent.node_rank)
        }
    if simulation.gateway_killed:
        return
    logged: dict[tuple[str, int], list[str]] = {}
    for _, event in simulation.logged:
        if isinstance(event, p.Output):
            logged.setdefault((event.run, event.rank), []).append(event.text)
    wrote: dict[tuple[str, int], list[str]] = {}
    for agent in simulation.agents:
        for key, texts in agent.written.items():
            wrote.setdefault(key, []).extend(texts)
    for key, written in wrote.items():
        had = logged.pop(key, [])
        if had != written and not (key[1] in doubtful and in_order(had, written)):
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
            if not simulation.gateway_alive or client.closed is not None:
                continue  # a clock has run out meanwhile
            known = simulation.gateway.clients.present(client.identity)
            if known is None or known.replay is None:
                raise Violation(f"{client.name} is attached, and the gateway does not know it")
            came = known.replay.until  # before it came, output that somebody has shown is left out
            had = [record.event for record in client.records if record.sequence > came]
            if had[: len(wanted) - came] != wanted[came:]:
                raise Violation(f"{client.name} has had {len(had)} of {len(wanted) - came} records")


def judge_closing(simulation: Simulation) -> None:
    """Every kernel that is attached hears that the session is over, or sees that its gateway is gone."""
    world = simulation.world
    if not world.run(lambda: not simulation.gateway_alive, CLOSING_SECONDS + CLOCK_SECONDS):
        raise Violation("the session does not close")
    faults = max((client.wire.last_fault for client in simulation.clients if client.wire is not None), default=0.0)
    waits = [client for client in simulation.clients if client.closed is None]
    patience = max(0.0, faults - world.now) + p.SILENCE_SECONDS + 2 * p.BEAT_SECONDS
    if not world.run(lambda: all(client.closed is not None for client in waits), patience):
        raise Violation("the session is closed, and a kernel waits for it still")


def judge_goodbyes(simulation: Simulation) -> None:
    """Every node that nothing befell says goodbye before the session is closed."""
    if simulation.faulty_nodes or any(agent.disturbed for agent in simulation.agents):
        return
    reasons = [event.reason for _, event in simulation.logged if isinstance(event, p.SessionChanged)]
    if any("not every node said goodbye" in reason for reason in reasons):
        raise Violation(f"a node is forgotten at the end: {reasons[-1]}")


def judge_clocks(simulation: Simulation) -> None:
    """No clock of a session ends it early, and its user was warned."""
    schedule = simulation.schedule
    limits = {"lease": schedule.lease, "--idle": schedule.idle, "--max-lifetime": schedule.max_lifetime}
    simulation.clocks["--max-lifetime"] = 0.0
    for at, event in simulation.logged:
        if not isinstance(event, p.SessionChanged) or event.state != "closing":
            continue
        for name, limit in limits.items():
            if limit is None or name not in event.reason:
                continue
            since = simulation.clocks.get(name)
            if since is None:
                raise Violation(f"the {name} ran out though it was not to run")
            if abs(at - since - limit) > CLOCK_SECONDS:
                raise Violation(f"a {name} of {limit} s ended after {at - since} s")
            warned = [when for when, told in simulation.logged if isinstance(told, p.Notice) and name in told.text]
            if name != "lease" and (not warned or abs(at - warned[-1] - warning_seconds(limit)) > CLOCK_SECONDS):
                raise Violation(f"the end by {name} at {at} s was announced at {warned}")
