"""The machine of a session under any stimuli, sensible or not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from modal_magic import protocol as p
from modal_magic import state as s
from tests.support.machine import CLIENT, Rig, error, execute

ranks = some.integers(0, 3)
runs = some.sampled_from("abc")
generations = some.integers(1, 4)
choices = some.none() | some.lists(some.integers(-1, 4), max_size=4)
healths = some.builds(p.Health, some.booleans(), some.sampled_from([{}, {"0": 1}, {"0": 2}]), some.booleans())
kinds: some.SearchStrategy[p.ErrorKind] = some.sampled_from(["exception", "communication"])

policies = some.none() | some.builds(
    p.Retries,
    some.integers(0, 3),
    some.sampled_from([0.0, 1.0, -1.0]),
    some.sampled_from([1.0, 2.0, 1e300]),
    some.just(60.0),
    some.booleans(),
)
TIMERS = ["verdict", "group", "lease", "idle", "idle warning", "lifetime", "lifetime warning", "timeout", "retry"]
TIMERS += ["closing", "nonsense"]

requests: some.SearchStrategy[p.Run | p.InterruptRun | p.Restart] = (
    some.builds(p.Run, some.builds(execute, runs), choices, some.none(), some.sampled_from([None, 1.0]), policies)
    | some.builds(p.InterruptRun, runs)
    | some.builds(p.Restart, some.just("r"), choices)
)
events: some.SearchStrategy[p.RankEvent] = (
    some.builds(p.Launched, ranks, some.just(7))
    | some.builds(p.Grouped, ranks, generations, some.just("cpu"), some.just(0.1))
    | some.builds(p.GroupFailed, ranks, generations, some.just(error()))
    | some.builds(p.Started, ranks, runs)
    | some.builds(p.Finished, ranks, runs, some.just(1.0), healths)
    | some.builds(p.Failed, ranks, runs, some.just(1.0), healths, some.builds(error, kind=kinds))
    | some.builds(p.Interrupted, ranks, runs, some.just(1.0), healths, some.just("the cell"))
    | some.builds(p.Lost, ranks, some.just("was killed"))
)
stimuli: some.SearchStrategy[s.Stimulus | None] = (
    some.builds(s.NodeJoined, some.integers(0, 2), some.just("10.0.0.1"), some.just(1), some.just(0), some.just(4))
    | some.builds(s.NodeGone, some.integers(0, 1), some.just("crashed"))
    | some.builds(s.Asked, some.just(CLIENT), requests)
    | some.builds(s.Attendance, some.integers(0, 2))
    | some.builds(s.Fired, some.sampled_from(TIMERS))
    | events
    | some.none()  # let everybody do what they were told: it takes the machine to places that noise does not find
)


class JudgedRig(Rig):
    """A rig that holds its machine, after each stimulus, to what must always be true."""

    def feed(self, stimulus: s.Stimulus) -> list[s.Effect]:
        machine = self.machine
        before, owed, generation, closed = everything(machine), outstanding(machine), machine.generation, machine.state
        joined = set(machine.nodes)
        try:
            effects = super().feed(stimulus)
        except s.UnexpectedEvent:
            assert everything(machine) == before, "an event that is refused changes something"
            if not self.lenient:
                raise
            return []
        assert machine.generation >= generation
        if closed is s.SessionState.CLOSED:
            assert effects == [], "something is said after the end"
            return effects
        if isinstance(stimulus, s.NodeJoined):
            joined.add(stimulus.node_rank)
        assert {effect.node_rank for effect in effects if isinstance(effect, s.Tell)} <= joined
        assert sum(isinstance(effect, s.End) for effect in effects) == (machine.state is s.SessionState.CLOSED)
        self.judge_runs(stimulus, owed, effects)
        return effects

    def judge_runs(self, stimulus: s.Stimulus, owed: set[str], effects: list[s.Effect]) -> None:
        """Every run that was taken is either still owed or has ended, and ends once."""
        ended = [end.run for end in self.logged(p.RunEnded, effects)]
        assert len(set(ended)) == len(ended)
        refused = {e.reply.request for e in effects if isinstance(e, s.Answer) and isinstance(e.reply, p.Refused)}
        if isinstance(stimulus, s.Asked) and isinstance(stimulus.request, p.Run):
            run = stimulus.request.task.run
            if run not in owed and (run not in refused or run in ended):
                owed.add(run)
        left = outstanding(self.machine)
        assert left | set(ended) == owed
        assert not left & set(ended)
        if self.machine.active is not None:
            busy = {number for number, rank in enumerate(self.machine.ranks) if rank.state in s.BUSY}
            assert busy == self.machine.active.pending


def everything(machine: s.Machine) -> str:
    return repr({name: value for name, value in vars(machine).items() if name not in ("settings", "effects")})


def outstanding(machine: s.Machine) -> set[str]:
    active = {machine.active.run} if machine.active is not None else set()
    return active | set(machine.queue.runs)


@settings(deadline=None, max_examples=150)
@given(some.booleans(), some.lists(stimuli, max_size=60))
def test_whatever_happens_every_run_ends_once_and_the_session_can_be_closed(
    grouped: bool, given_stimuli: list[s.Stimulus | None]
) -> None:
    rig = JudgedRig(2, 2, grouped=grouped, idle=60.0, max_lifetime=600.0)
    rig.lenient = True
    for stimulus in given_stimuli:
        if stimulus is None:
            rig.turn()
        else:
            rig.feed(stimulus)
    rig.ask(p.Stop("it was stopped"))
    rig.feed(s.Fired("closing"))
    assert rig.machine.state is s.SessionState.CLOSED
    assert [type(effect) for effect in rig.effects].count(s.End) == 1
    assert not outstanding(rig.machine)


@settings(deadline=None, max_examples=200)
@given(some.booleans(), some.data())
def test_whatever_ranks_and_nodes_suffer_the_session_comes_to_rest_with_all_that_can_live(
    grouped: bool, data: some.DataObject
) -> None:
    rig = JudgedRig(2, 2, grouped=grouped)
    rig.feed(s.Attendance(1))
    if data.draw(some.booleans()):
        rig.ready()
    deeds = [
        "join",
        "gone",
        "run",
        "run",
        "interrupt",
        "restart",
        "turn",
        "turn",
        "turn",
        "end",
        "end",
        "lose",
        "group",
    ]
    deeds += ["verdict", "patience", "timeout", "retry"]
    for number, deed in enumerate(data.draw(some.lists(some.sampled_from(deeds), max_size=40))):
        suffer(rig, deed, number, data)
    while rig.machine.state is not s.SessionState.CLOSED:
        if rig.machine.state is s.SessionState.LAUNCHING:
            rig.join()
        rig.play()
        if "verdict" in rig.timers:
            rig.fire("verdict")
        elif "retry" in rig.timers:
            rig.fire("retry")
        elif (active := rig.machine.active) is not None:
            assert all(rig.workers[rank].started for rank in active.pending), "a rank does not come to its cell"
            rig.finish(active.run)
        else:
            break
    assert not outstanding(rig.machine)
    if rig.machine.state is not s.SessionState.CLOSED:
        given_up = [number for number in range(4) if number not in rig.workers]
        assert rig.machine.state in (s.SessionState.READY, s.SessionState.DEGRADED)
        assert all(rank.state in s.FREE or number in given_up for number, rank in enumerate(rig.machine.ranks))
        assert {worker.joined for worker in rig.workers.values()} <= {rig.machine.generation}
        assert not rig.machine.restarts


def suffer(rig: Rig, deed: str, number: int, data: some.DataObject) -> None:
    """Do one thing that can happen to a session, if it can happen now."""
    running = [rank for rank, worker in rig.workers.items() if worker.started]
    match deed:
        case "join":
            rig.join(data.draw(some.integers(0, 1)))
        case "gone" if rig.machine.nodes:
            rig.feed(s.NodeGone(data.draw(some.sampled_from(sorted(rig.machine.nodes))), "was preempted"))
        case "run":
            timeout, retries = data.draw(some.sampled_from([None, 9.0])), data.draw(policies)
            rig.run(f"run {number}", data.draw(choices), timeout, retries)
        case "interrupt" if outstanding(rig.machine):
            rig.ask(p.InterruptRun(data.draw(some.sampled_from(sorted(outstanding(rig.machine))))))
        case "restart":
            rig.ask(p.Restart(f"restart {number}", data.draw(choices)))
        case "turn":
            rig.turn()
        case "end" if running:
            rank = data.draw(some.sampled_from(running))
            run = rig.workers[rank].run
            if data.draw(some.booleans()):
                rig.finish(run, rank, health=data.draw(healths))
            else:
                rig.fail(run, rank, kind=data.draw(kinds), health=data.draw(healths))
        case "lose" if rig.workers:
            rig.lose(data.draw(some.sampled_from(sorted(rig.workers))))
        case "verdict" if "verdict" in rig.timers:
            rig.fire("verdict")
        case "timeout" | "retry" if deed in rig.timers:
            rig.fire(deed)
        case "patience" if "group" in rig.timers:
            rig.fire("group")
        case "group" if rig.grouped:
            for _ in range(data.draw(some.integers(1, s.ATTEMPTS))):
                if waiting := [
                    rank for rank, worker in rig.workers.items() if worker.launched and worker.waits and worker.together
                ]:
                    rank = data.draw(some.sampled_from(waiting))
                    rig.feed(p.GroupFailed(rank, rig.workers[rank].generation, error()))


@pytest.mark.parametrize("world_size", [1, 64, 1024])
def test_a_pass_costs_a_few_effects_however_many_ranks_there_are(world_size: int) -> None:
    rig = Rig(max(1, world_size // 8), min(8, world_size)).ready()
    before = len(rig.effects)
    rig.run("a")
    rig.play()
    rig.finish("a")
    assert rig.ends == [("a", "done", [])]
    assert len(rig.effects) - before <= rig.topology.nodes + 10


def test_a_failure_of_one_in_1024_ranks_costs_a_few_effects_for_each_node() -> None:
    rig = Rig(128, 8).ready()
    before = len(rig.effects)
    rig.run("a")
    rig.play()
    rig.fail("a", 700)
    rig.fire("verdict")
    rig.play()
    assert rig.ends == [("a", "failed", [700])]
    assert rig.machine.state is s.SessionState.READY
    assert len(rig.effects) - before <= 3 * rig.topology.nodes + 3 * rig.topology.world_size
