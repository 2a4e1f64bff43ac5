"""The machine of a session: what each stimulus leads to."""

from __future__ import annotations

from itertools import permutations

import pytest

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.state import RankState as R
from modal_magic.state import SessionState as S
from tests.support.machine import Rig, error

EVENTS: dict[type[p.Message], p.RankEvent] = {
    p.Launched: p.Launched(0, 1),
    p.Grouped: p.Grouped(0, 1, "cpu", 0.1),
    p.GroupFailed: p.GroupFailed(0, 1, error()),
    p.Started: p.Started(0, "a"),
    p.Finished: p.Finished(0, "a", 1.0, p.Health()),
    p.Failed: p.Failed(0, "a", 1.0, p.Health(), error()),
    p.Interrupted: p.Interrupted(0, "a", 1.0, p.Health(), "the cell"),
    p.Lost: p.Lost(0, "was killed"),
}
"""One event of each kind that a rank can send."""


def machine_with_rank_in(state: R) -> s.Machine:
    """A machine of two ranks whose rank 0 is in a state and owes the end of run `a`."""
    machine = Rig(1, 2).ready().machine
    machine.ranks[0].state = state
    machine.active = s.ActiveRun("a", (0, 1), {0, 1})
    machine.state = S.RUNNING
    return machine


# ---- the tables ------------------------------------------------------------------------------------------------------


def test_every_state_of_a_rank_can_be_reached() -> None:
    reached = {R.LAUNCHING}
    while more := {after for (before, _), after in s.RANK_TABLE.items() if before in reached} - reached:
        reached |= more
    assert reached == set(R)


def test_every_state_of_a_session_can_be_reached_and_left_for_closed() -> None:
    reached = {S.LAUNCHING}
    while more := {after for before in reached for after in s.SESSION_TABLE[before]} - reached:
        reached |= more
    assert reached == set(s.SESSION_TABLE) == set(S)
    assert all(S.CLOSED in after for before, after in s.SESSION_TABLE.items() if before is not S.CLOSED)
    assert s.SESSION_TABLE[S.CLOSED] == frozenset()


def test_every_rank_can_be_lost_and_a_lost_one_can_only_be_launched_or_come_back_with_its_node() -> None:
    assert all(s.RANK_TABLE[state, p.Lost] is R.LOST for state in R if state is not R.LOST)
    assert [kind for state, kind in s.RANK_TABLE if state is R.LOST] == [p.Launch, p.Returned]


def test_free_and_busy_ranks_are_told_apart() -> None:
    assert not s.FREE & s.BUSY
    assert all(((state, p.Submitted) in s.RANK_TABLE) is (state in s.FREE) for state in R)


@pytest.mark.parametrize("state", R)
def test_an_event_is_taken_where_the_table_allows_it_and_else_refused_with_nothing_changed(state: R) -> None:
    for kind, event in EVENTS.items():
        machine = machine_with_rank_in(state)
        if (state, kind) in s.RANK_TABLE:
            machine.handle(event)
            assert machine.ranks[0].state is s.RANK_TABLE[state, kind]
        else:
            with pytest.raises(s.UnexpectedEvent, match=f"rank 0 is {state} and cannot take {kind.__name__}; before: "):
                machine.handle(event)
            assert machine.ranks[0].state is state
            assert (machine.state, machine.generation) == (S.RUNNING, 1)


def test_an_unexpected_event_tells_the_last_events_of_its_rank() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a", [0])
    rig.play()
    rig.finish("a")
    with pytest.raises(s.UnexpectedEvent, match=r"before: Launched, Grouped, Submitted, Started, Finished$"):
        rig.feed(p.Launched(0, 7))
    with pytest.raises(s.UnexpectedEvent, match=r"rank 1 is idle and cannot take Launched; before: Launched, Grouped$"):
        rig.feed(p.Launched(1, 7))
    with pytest.raises(s.UnexpectedEvent, match=r"before: nothing$"):
        Rig().feed(p.Grouped(0, 1, "cpu", 0.1))


def test_what_had_changed_before_an_unexpected_event_is_done_all_the_same() -> None:
    rig = Rig(2, 1).ready()
    rig.feed(s.NodeGone(1, "stopped answering", silent=True))
    twice = (p.Alive(1, 1001, True, ""),) * 2
    with pytest.raises(s.UnexpectedEvent, match="cannot take Returned") as caught:
        rig.feed(s.NodeJoined(1, "10.0.0.1", 29500, 0, 8, workers=twice))
    assert s.Log(p.Returned(1)) in caught.value.effects
    assert s.SetTimer("return of node 1", None) in caught.value.effects


# ---- launching -------------------------------------------------------------------------------------------------------


def test_ranks_are_launched_once_every_node_has_joined() -> None:
    rig = Rig(2, 2)
    rig.join(1)
    assert not rig.told(p.Launch)
    rig.join(0)
    launches = rig.told(p.Launch)
    assert [(node, [place.rank for place in launch.places]) for node, launch in launches] == [(0, [0, 1]), (1, [2, 3])]
    assert all(launch.generation == 1 and launch.store == rig.machine.settings.store for _, launch in launches)
    assert rig.timers["group"] == s.GROUP_SECONDS


def test_every_rank_is_told_where_node_0_is() -> None:
    rig = Rig(2, 2)
    rig.join(1, 0)
    places = [place for _, launch in rig.told(p.Launch) for place in launch.places]
    assert {place.environment["MASTER_ADDR"] for place in places} == {"10.0.0.0"}
    assert {place.environment["MASTER_PORT"] for place in places} == {"29500"}
    assert {place.environment["COLOUR"] for place in places} == {"red"}
    assert [place.environment["RANK"] for place in places] == ["0", "1", "2", "3"]


def test_a_session_is_ready_when_every_rank_is_in_the_group() -> None:
    rig = Rig(2, 2)
    rig.join()
    for rank in range(4):
        rig.feed(p.Launched(rank, 100 + rank))
    for rank in range(3):
        rig.feed(p.Grouped(rank, 1, "cpu", 0.1))
    assert rig.machine.state is S.LAUNCHING
    assert rig.states == ["idle", "idle", "idle", "rendezvous"]
    effects = rig.feed(p.Grouped(3, 1, "cpu", 0.1))
    assert rig.logged(p.SessionChanged, effects) == [p.SessionChanged("ready", 1, "")]
    assert "group" not in rig.timers
    assert [rank.pid for rank in rig.machine.ranks] == [100, 101, 102, 103]


def test_ranks_run_on_gpus_where_every_rank_of_the_node_has_one() -> None:
    rig = Rig(1, 2, accelerated=True)
    rig.join(accelerators=2)
    assert [place.device for _, launch in rig.told(p.Launch) for place in launch.places] == ["cuda:0", "cuda:1"]
    assert not rig.logged(p.Notice)


@pytest.mark.parametrize(("found", "words"), [(1, "found 1 GPU for 2 ranks"), (0, "found 0 GPUs for 2 ranks")])
def test_a_node_without_enough_gpus_runs_on_the_cpu_and_says_so(found: int, words: str) -> None:
    rig = Rig(1, 2, accelerated=True)
    rig.join(accelerators=found)
    assert [place.device for _, launch in rig.told(p.Launch) for place in launch.places] == ["cpu", "cpu"]
    [notice] = rig.logged(p.Notice)
    assert notice.text.startswith(words)


def test_a_node_that_joins_twice_is_launched_once() -> None:
    rig = Rig(1, 2)
    rig.join()
    assert rig.feed(s.NodeJoined(0, "10.0.0.9", 1, 0, 1)) == []
    assert rig.feed(s.NodeJoined(7, "10.0.0.9", 1, 0, 1)) == []
    assert len(rig.told(p.Launch)) == 1


def test_a_session_that_loses_a_node_before_all_have_joined_ends() -> None:
    rig = Rig(2, 1)
    rig.feed(s.Attendance(1))
    rig.join(1)
    rig.feed(s.NodeGone(1, "was preempted"))
    rig.join(0)
    rig.play()
    assert rig.machine.state is S.CLOSED
    assert "was preempted" in rig.logged(p.SessionChanged)[0].reason


def test_a_node_that_comes_back_during_the_launch_gets_its_own_ranks_alone() -> None:
    rig = Rig(2, 1)
    rig.join()
    rig.feed(s.NodeGone(0, "stopped answering"))
    before = len(rig.effects)
    rig.join(0)
    assert [node for node, _ in rig.told(p.Launch, rig.effects[before:])] == [0]
    rig.play()
    assert rig.machine.state is S.READY


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_goes_to_its_ranks_and_being_sent_makes_them_queued() -> None:
    rig = Rig(2, 2).ready()
    effects = rig.run("a", [1, 2])
    assert rig.states == ["idle", "queued", "queued", "idle"]
    kinds = [type(effect) for effect in effects]
    assert kinds.index(s.Log) < kinds.index(s.Tell)  # the log knows of a run before its ranks do
    assert rig.logged(p.Submitted, effects) == [p.Submitted("a", [1, 2], 1, "pass")]
    assert [(node, submit.ranks) for node, submit in rig.told(p.Submit, effects)] == [(0, [1]), (1, [2])]
    assert rig.machine.state is S.RUNNING


def test_a_run_ends_when_every_rank_has_ended() -> None:
    rig = Rig().ready()
    rig.run("a")
    rig.play()
    rig.finish("a", 0, 1, 2)
    assert (rig.ends, rig.states) == ([], ["done", "done", "done", "running"])
    rig.finish("a", 3)
    assert rig.ends == [("a", "done", [])]
    assert rig.machine.state is S.READY


def test_a_fast_rank_does_not_end_a_run_that_a_slow_one_has_not_begun() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.feed(p.Started(0, "a"))
    rig.feed(p.Finished(0, "a", 0.1, p.Health()))
    assert (rig.ends, rig.states) == ([], ["done", "queued"])


def test_runs_wait_and_start_in_the_order_in_which_they_were_asked() -> None:
    rig = Rig(1, 2).ready()
    for run in ("a", "b", "c"):
        rig.run(run)
    assert rig.logged(p.RunQueued) == [p.RunQueued("b", 1), p.RunQueued("c", 2)]
    for run in ("a", "b", "c"):
        rig.play()
        rig.finish(run)
    assert [event.run for event in rig.logged(p.Submitted)] == ["a", "b", "c"]
    assert rig.ends == [("a", "done", []), ("b", "done", []), ("c", "done", [])]


def test_a_run_on_other_ranks_waits_too() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a", [0])
    rig.run("b", [1])
    assert rig.states == ["queued", "idle"]
    assert rig.logged(p.RunQueued) == [p.RunQueued("b", 1)]


def test_a_run_that_is_asked_while_the_session_starts_waits_for_it() -> None:
    rig = Rig(1, 2)
    rig.run("a")
    assert rig.logged(p.RunQueued) == [p.RunQueued("a", 0)]
    rig.ready()
    assert [event.run for event in rig.logged(p.Submitted)] == ["a"]


def test_words_about_a_run_that_is_over_change_nothing() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.play()
    rig.finish("a")
    rig.run("b", [0])
    assert rig.feed(p.Finished(0, "a", 1.0, p.Health())) == []
    assert rig.feed(p.Started(1, "b")) == []
    assert rig.states == ["queued", "done"]


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [[4], [0, 9], [-1], []])
def test_a_run_on_ranks_that_are_not_there_is_refused(ranks: list[int]) -> None:
    rig = Rig().ready()
    rig.run("a", ranks)
    [refused] = rig.answered(p.Refused)
    assert refused.request == "a"
    assert refused.reason.startswith("the session has ranks 0-3")
    assert (rig.machine.queue.runs, rig.machine.active, rig.ends) == ([], None, [])


def test_a_rank_that_is_named_twice_runs_once() -> None:
    rig = Rig().ready()
    rig.run("a", [1, 0, 1])
    rig.play()
    assert rig.states == ["running", "running", "idle", "idle"]
    rig.finish("a")
    assert rig.ends == [("a", "done", [])]


def test_a_second_run_of_the_same_id_is_refused() -> None:
    rig = Rig().ready()
    for run in ("a", "b", "a", "b"):
        rig.run(run)
    assert [refused.request for refused in rig.answered(p.Refused)] == ["a", "b"]
    assert rig.machine.queue.runs == ["b"]


def test_requests_of_a_closing_session_are_refused() -> None:
    rig = Rig().ready()
    rig.ask(p.Stop("stopped"))
    rig.run("a")
    rig.ask(p.Restart("r", None))
    assert [(refused.request, refused.reason) for refused in rig.answered(p.Refused)] == [
        ("a", "the session is closing"),
        ("r", "the session is closing"),
    ]


def test_a_restart_of_ranks_that_are_not_there_is_refused() -> None:
    rig = Rig().ready()
    rig.ask(p.Restart("r", [1, 4]))
    assert rig.answered(p.Refused) == [p.Refused("r", "there is no rank 4")]
    assert not rig.told(p.KillRanks)


def test_a_run_on_a_rank_that_cannot_come_back_is_refused_and_ends() -> None:
    rig = Rig(2, 1, grouped=False).ready()
    rig.feed(s.NodeGone(1, "was preempted"))
    rig.run("a")
    rig.run("b", [0])
    [refused] = rig.answered(p.Refused)
    assert (refused.request, refused.reason.split(":")[0]) == ("a", "rank 1 is lost")
    assert rig.ends == [("a", "failed", [1])]
    assert rig.states == ["queued", "lost"]


# ---- failures --------------------------------------------------------------------------------------------------------


def test_when_a_rank_raises_the_others_are_given_a_moment_and_then_interrupted() -> None:
    rig = Rig(2, 2).ready()
    rig.run("a")
    rig.play()
    rig.fail("a", 2)
    assert rig.timers["verdict"] == s.VERDICT_SECONDS
    assert not rig.told(p.InterruptRanks)
    rig.finish("a", 1)
    effects = rig.fire("verdict")
    assert [(node, order.ranks) for node, order in rig.told(p.InterruptRanks, effects)] == [(0, [0]), (1, [3])]
    rig.play()
    assert rig.ends == [("a", "failed", [2])]
    assert rig.machine.state is S.READY


def test_a_late_starter_that_is_interrupted_before_it_began_ends_with_the_run() -> None:
    rig = Rig(1, 3).ready()
    rig.run("a")
    for rank in (0, 1):
        rig.feed(p.Started(rank, "a"))
    rig.fail("a", 0)
    rig.fire("verdict")
    rig.feed(p.Interrupted(2, "a", 0.0, p.Health(), "before it began"))
    assert rig.states[2] == "interrupted"
    rig.leave("a", 1)
    assert rig.ends == [("a", "failed", [0])]


@pytest.mark.parametrize("order", list(permutations((0, 1, 2))))
def test_a_lost_rank_is_blamed_before_an_exception_and_that_before_a_communication_error(
    order: tuple[int, ...],
) -> None:
    rig = Rig(1, 3).ready()
    rig.run("a")
    rig.play()
    for rank in order:
        if rank == 0:
            rig.lose(0)
        else:
            rig.fail("a", rank, kind="exception" if rank == 1 else "communication")
    assert rig.ends == [("a", "failed", [0, 1, 2])]


def test_of_equal_failures_the_first_to_arrive_is_blamed_first() -> None:
    rig = Rig(1, 3).ready()
    rig.run("a")
    rig.play()
    rig.fail("a", 2, 0, 1)
    assert rig.ends == [("a", "failed", [2, 0, 1])]


def test_when_all_ranks_raise_at_once_nobody_is_interrupted() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.play()
    rig.fail("a", 0, 1)
    assert "verdict" not in rig.timers
    assert not rig.told(p.InterruptRanks)


def test_a_rank_that_had_to_be_killed_to_leave_is_not_the_cause() -> None:
    rig = Rig(1, 3).ready()
    rig.run("a")
    rig.play()
    rig.fail("a", 1)
    rig.fire("verdict")
    rig.feed(p.Lost(0, "did not leave the cell and was killed", forced=True))
    rig.leave("a", 2)
    assert rig.ends == [("a", "failed", [1])]


def test_a_node_that_falls_silent_is_blamed_before_the_connections_that_it_broke() -> None:
    rig = Rig(3, 1).ready()
    rig.run("a")
    rig.play()
    rig.fail("a", 0, kind="communication")
    rig.fire("verdict")
    rig.fail("a", 2, kind="communication")
    rig.feed(s.NodeGone(1, "stopped answering"))
    assert rig.ends == [("a", "failed", [1, 0, 2])]


# ---- interrupts ------------------------------------------------------------------------------------------------------


def test_an_interrupt_frees_those_that_still_run_and_blames_nobody() -> None:
    rig = Rig(1, 3).ready()
    rig.run("a")
    rig.play()
    rig.finish("a", 1)
    effects = rig.ask(p.InterruptRun("a"))
    assert [order.ranks for _, order in rig.told(p.InterruptRanks, effects)] == [[0, 2]]
    rig.fail("a", 0, kind="communication")
    assert "verdict" not in rig.timers
    rig.leave("a", 2)
    assert rig.ends == [("a", "interrupted", [])]


def test_an_interrupted_run_that_waits_ends_without_having_begun() -> None:
    rig = Rig(1, 2).ready()
    for run in ("a", "b", "c"):
        rig.run(run)
    rig.ask(p.InterruptRun("b"))
    assert rig.ends == [("b", "interrupted", [])]
    rig.play()
    rig.finish("a")
    assert [event.run for event in rig.logged(p.Submitted)] == ["a", "c"]


def test_an_interrupt_of_a_run_that_is_not_there_changes_nothing() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    assert rig.ask(p.InterruptRun("b")) == []


def test_an_interrupt_after_the_first_failure_does_not_hide_it() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.play()
    rig.fail("a", 0)
    rig.ask(p.InterruptRun("a"))
    rig.play()
    assert rig.ends == [("a", "failed", [0])]


def test_interrupting_twice_is_interrupting_once() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.play()
    rig.ask(p.InterruptRun("a"))
    rig.fail("a", 0, kind="communication")
    rig.ask(p.InterruptRun("a"))
    rig.play()
    assert rig.ends == [("a", "interrupted", [])]


# ---- process groups --------------------------------------------------------------------------------------------------


def test_a_lost_rank_is_started_again_and_all_regroup() -> None:
    rig = Rig(2, 2).ready()
    rig.run("a")
    rig.play()
    rig.lose(2)
    rig.fire("verdict")
    before = len(rig.effects)
    rig.play()
    new = rig.effects[before:]
    generation = rig.machine.generation
    [(node, launch)] = rig.told(p.Launch, new)
    assert (node, [place.rank for place in launch.places], launch.generation) == (1, [2], generation)
    regrouped = {
        rank for _, order in rig.told(p.RegroupRanks, new) if order.generation == generation for rank in order.ranks
    }
    assert regrouped == {0, 1, 3}
    assert generation > 1
    assert [event.state for event in rig.logged(p.SessionChanged, new)] == ["recovering", "ready"]
    assert rig.states == ["idle"] * 4


def test_a_rank_that_dies_between_runs_is_started_again_and_the_next_run_waits_for_it() -> None:
    rig = Rig().ready()
    rig.lose(1)
    rig.run("a")
    assert rig.machine.state is S.RECOVERING
    assert rig.logged(p.RunQueued) == [p.RunQueued("a", 0)]
    rig.play()
    assert rig.states == ["running"] * 4
    assert rig.machine.generation == 2


def test_several_ranks_that_die_one_after_the_other_meet_in_one_group() -> None:
    rig = Rig().ready()
    rig.lose(0, 1, 2, 3)
    rig.play()
    assert rig.machine.state is S.READY
    assert {worker.joined for worker in rig.workers.values()} == {rig.machine.generation}


def test_a_rank_that_is_still_starting_hears_of_a_newer_group() -> None:
    rig = Rig(1, 2)
    rig.join()
    rig.feed(p.Launched(0, 1))
    rig.lose(0)
    rig.play()
    assert rig.machine.state is S.READY
    assert {worker.joined for worker in rig.workers.values()} == {2}


def test_a_word_about_an_older_group_is_ignored() -> None:
    rig = Rig(1, 2).ready()
    rig.lose(0)
    assert rig.states == ["launching", "rendezvous"]
    assert rig.feed(p.Grouped(1, 1, "cpu", 0.1)) == []
    assert rig.feed(p.GroupFailed(1, 1, error())) == []
    assert rig.states == ["launching", "rendezvous"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (p.Health(), p.Health()),
        (p.Health(True, {"0": 3, "1": 1}), p.Health(True, {"0": 3, "1": 1})),
        (p.Health(True, {"0": 3, "1": 1}), p.Health(True, {"0": 3, "2": 5})),
    ],
)
def test_groups_that_agree_are_kept_after_a_run(first: p.Health, second: p.Health) -> None:
    rig = Rig(1, 2).ready()
    for end in (rig.finish, rig.fail):
        rig.run("a")
        rig.play()
        end("a", 0, health=first)
        end("a", 1, health=second)
        assert rig.machine.state is S.READY
    assert rig.machine.generation == 1


@pytest.mark.parametrize(
    "health", [p.Health(True, {"0": 4}), p.Health(True, {"0": 3}, severed=True), p.Health(grouped=False)]
)
def test_groups_that_disagree_are_built_anew_after_a_run(health: p.Health) -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.play()
    rig.finish("a", 0, health=p.Health(True, {"0": 3}))
    rig.finish("a", 1, health=health)
    assert (rig.machine.state, rig.machine.generation) == (S.RECOVERING, 2)
    assert rig.states == ["rendezvous"] * 2
    rig.play()
    assert rig.machine.state is S.READY
    assert rig.ends == [("a", "done", [])]


def test_a_run_on_some_ranks_whose_groups_are_severed_regroups_all() -> None:
    rig = Rig(1, 3).ready()
    rig.run("a", [0])
    rig.play()
    rig.ask(p.InterruptRun("a"))
    rig.play()
    assert rig.machine.state is S.READY
    assert {worker.joined for worker in rig.workers.values()} == {2}


def test_ranks_without_process_groups_are_never_regrouped() -> None:
    rig = Rig(grouped=False).ready()
    assert rig.machine.state is S.READY
    rig.run("a")
    rig.play()
    rig.finish("a", 0, 1, health=p.Health(grouped=False))
    rig.lose(3)
    rig.fire("verdict")
    rig.play()
    assert (rig.machine.state, rig.machine.generation) == (S.READY, 1)
    assert [[place.rank for place in launch.places] for _, launch in rig.told(p.Launch)] == [[0, 1, 2, 3], [3]]
    assert not rig.told(p.RegroupRanks)


def test_a_group_that_cannot_be_formed_is_tried_again() -> None:
    rig = Rig(1, 2)
    rig.join()
    for rank in range(2):
        rig.feed(p.Launched(rank, 1))
    effects = rig.feed(p.GroupFailed(0, 1, error()))
    assert [(order.ranks, order.generation) for _, order in rig.told(p.RegroupRanks, effects)] == [([0, 1], 2)]
    assert rig.feed(p.GroupFailed(1, 1, error())) == []
    rig.play()
    assert rig.machine.state is S.READY


def test_a_session_whose_first_group_cannot_be_formed_closes_and_says_why() -> None:
    rig = Rig(1, 2)
    rig.join()
    for rank in range(2):
        rig.feed(p.Launched(rank, 1))
    for generation in (1, 2, 3):
        for rank in range(2):
            rig.feed(p.GroupFailed(rank, generation, error("no route")))
    assert rig.machine.state is S.CLOSING
    assert rig.logged(p.SessionChanged)[-1].reason == "rank 0 could not join the process group: ValueError: no route"


def test_a_session_that_cannot_regroup_goes_on_degraded_with_its_variables() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.play()
    rig.finish("a", 0, health=p.Health(grouped=False))
    rig.finish("a", 1)
    for generation in (2, 3, 4):
        for rank in range(2):
            rig.feed(p.GroupFailed(rank, generation, error("no route")))
    rig.play()
    assert rig.machine.state is S.DEGRADED
    assert not rig.told(p.KillRanks)
    rig.run("b")
    assert rig.machine.active is not None


def test_nobody_waits_for_a_group_that_was_given_up() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.play()
    rig.finish("a", health=p.Health(grouped=False))
    for generation in (2, 3, 4):
        rig.feed(p.GroupFailed(0, generation, error("no route")))
    rig.play()
    assert rig.machine.state is S.DEGRADED
    rig.run("b")
    rig.play()
    assert rig.states == ["running", "running"]


def test_a_late_word_about_a_group_that_was_given_up_is_ignored() -> None:
    rig = Rig(1, 3).ready()
    rig.run("a")
    rig.play()
    rig.finish("a", health=p.Health(grouped=False))
    for generation in (2, 3, 4):
        rig.feed(p.GroupFailed(0, generation, error("no route")))
    rig.feed(p.GroupFailed(1, 4, error("no route")))
    rig.feed(p.Grouped(2, 4, "cpu", 0.1))
    rig.play()
    assert rig.machine.state is S.DEGRADED


def test_a_rank_that_is_started_anew_after_a_group_was_given_up_does_not_wait_for_it_either() -> None:
    rig = Rig(1, 3).ready()
    rig.lose(2)
    for generation in (2, 3, 4):
        rig.feed(p.GroupFailed(0, generation, error("no route")))
    rig.lose(1)
    rig.play()
    assert rig.states == ["idle"] * 3
    assert rig.machine.state in (S.READY, S.DEGRADED)


def test_a_restart_of_no_rank_changes_nothing() -> None:
    rig = Rig(1, 2).ready()
    rig.lose(1)
    for generation in (2, 3, 4):
        rig.feed(p.GroupFailed(0, generation, error("no route")))
    rig.play()
    assert rig.machine.state is S.DEGRADED
    rig.ask(p.Restart("r", []))
    assert rig.machine.state is S.DEGRADED
    assert rig.answered(p.Done) == [p.Done("r")]


def test_ranks_that_do_not_come_to_the_group_are_started_anew() -> None:
    rig = Rig(1, 3)
    rig.join()
    for rank in (0, 1):
        rig.feed(p.Launched(rank, 1))
    effects = rig.fire("group")
    assert 2 in [rank for _, order in rig.told(p.KillRanks, effects) for rank in order.ranks]
    rig.play()
    assert rig.machine.state is S.READY


def test_ranks_that_wait_for_others_are_not_killed_for_them() -> None:
    rig = Rig(1, 3).ready()
    rig.lose(2)
    # The new process of rank 2 hangs before its first word.
    assert rig.states == ["rendezvous", "rendezvous", "launching"]
    effects = rig.fire("group")
    assert [order.ranks for _, order in rig.told(p.KillRanks, effects)] == [[2]]


def test_a_rank_that_is_stuck_on_its_way_to_the_group_is_started_anew_and_nobody_else_is() -> None:
    rig = Rig(1, 3).ready()
    rig.lose(2)
    rig.stuck = {1}
    rig.play()
    assert rig.states == ["rendezvous"] * 3  # the others wait for it
    assert not rig.told(p.KillRanks, rig.fire("group"))
    rig.play()
    assert rig.states == ["idle", "rendezvous", "idle"]
    effects = rig.fire("group")
    ((_, order),) = rig.told(p.KillRanks, effects)
    assert (order.ranks, order.cause) == ([1], "stopped answering and was killed")
    rig.play()
    assert rig.machine.state is S.READY
    assert "group" not in rig.timers


@pytest.mark.parametrize("grouped", [True, False])
def test_a_rank_that_is_stuck_where_nobody_waits_for_a_group_is_started_anew(grouped: bool) -> None:
    rig = Rig(2, 2, grouped=grouped).ready()
    rig.feed(s.NodeGone(1, "stopped answering", silent=True))
    if not grouped:
        rig.lose(0)
    rig.stuck = {0}
    rig.play()
    assert rig.machine.state is S.RECOVERING
    effects = rig.fire("group")
    assert [order.ranks for _, order in rig.told(p.KillRanks, effects)] == [[0]]
    rig.play()
    assert rig.machine.state is S.DEGRADED
    assert rig.states == ["idle", "idle", "lost", "lost"]


# ---- restarts --------------------------------------------------------------------------------------------------------


def test_a_restart_is_confirmed_when_the_fresh_ranks_are_ready() -> None:
    rig = Rig(2, 2).ready()
    effects = rig.ask(p.Restart("r", None))
    assert [(node, order.ranks) for node, order in rig.told(p.KillRanks, effects)] == [(0, [0, 1]), (1, [2, 3])]
    rig.doomed.clear()
    for rank in range(4):
        rig.lose(rank)
        assert not rig.answered(p.Done)
    for rank in range(4):
        rig.feed(p.Launched(rank, 5))
        assert not rig.answered(p.Done)
    rig.play()
    assert rig.answered(p.Done) == [p.Done("r")]
    assert rig.machine.state is S.READY
    assert {worker.joined for worker in rig.workers.values()} == {rig.machine.generation}


def test_a_restart_of_one_rank_leaves_the_others_alone() -> None:
    rig = Rig().ready()
    rig.ask(p.Restart("r", [2]))
    rig.play()
    assert [order.ranks for _, order in rig.told(p.KillRanks)] == [[2]]
    assert [[place.rank for place in launch.places] for _, launch in rig.told(p.Launch)] == [[0, 1, 2, 3], [2]]
    assert rig.answered(p.Done) == [p.Done("r")]


def test_a_run_that_is_asked_during_a_restart_waits_for_the_fresh_ranks() -> None:
    rig = Rig().ready()
    rig.ask(p.Restart("r", [2]))
    rig.run("a")
    assert rig.machine.active is None
    rig.play()
    assert [type(event).__name__ for event in rig.logged(p.Message)[-3:]] == [
        "SessionChanged",
        "SessionChanged",
        "Submitted",
    ]
    assert rig.states == ["running"] * 4


def test_a_restart_in_the_middle_of_a_run_ends_it() -> None:
    rig = Rig().ready()
    rig.run("a")
    rig.play()
    rig.ask(p.Restart("r", None))
    rig.play()
    assert rig.ends == [("a", "failed", [0, 1, 2, 3])]
    assert rig.answered(p.Done) == [p.Done("r")]
    assert rig.machine.state is S.READY


def test_a_restart_of_a_session_that_still_starts_does_not_block_it() -> None:
    rig = Rig(2, 1)
    rig.join(0)
    rig.ask(p.Restart("r", None))
    rig.join(1)
    rig.play()
    assert rig.machine.state is S.READY
    assert rig.answered(p.Done) == [p.Done("r")]


def test_a_restart_of_a_rank_whose_node_is_gone_is_refused() -> None:
    rig = Rig(2, 1, grouped=False).ready()
    rig.feed(s.NodeGone(1, "was preempted"))
    rig.ask(p.Restart("r", [1]))
    rig.play()
    assert not rig.answered(p.Done)
    assert [refused.request for refused in rig.answered(p.Refused)] == ["r"]


def test_a_rank_that_dies_at_every_start_is_given_up_after_three_attempts() -> None:
    rig = Rig(1, 3, grouped=False, stillborn=[1]).ready()
    assert [len(launch.places) for _, launch in rig.told(p.Launch)] == [3, 1, 1, 1]
    assert rig.states == ["idle", "lost", "idle"]
    last = rig.logged(p.SessionChanged)[-1]
    assert last.state == "degraded"
    assert last.reason == "rank 1 cannot be started again: %modal_restart tries once more"


def test_a_rank_that_dies_at_every_start_does_not_keep_the_others_waiting() -> None:
    rig = Rig(1, 3, stillborn=[1]).ready()
    assert rig.machine.state is S.DEGRADED
    assert rig.states == ["idle", "lost", "idle"]


def test_a_restart_tries_a_rank_that_was_given_up_once_more() -> None:
    rig = Rig(1, 3, grouped=False, stillborn=[1]).ready()
    rig.stillborn.clear()
    rig.ask(p.Restart("r", [1]))
    rig.play()
    assert rig.machine.state is S.READY
    assert rig.answered(p.Done) == [p.Done("r")]


def test_a_rank_that_came_up_in_between_is_tried_as_often_again() -> None:
    rig = Rig(1, 2).ready()
    for _ in range(2 * s.ATTEMPTS):
        rig.lose(1)
        rig.play()
    assert rig.machine.state is S.READY


# ---- nodes -----------------------------------------------------------------------------------------------------------


def test_a_node_that_goes_away_takes_its_ranks_with_it() -> None:
    rig = Rig(2, 2, grouped=False).ready()
    rig.run("a")
    rig.play()
    effects = rig.feed(s.NodeGone(1, "was preempted"))
    assert rig.logged(p.Lost, effects) == [
        p.Lost(rank, "ended with node 1, which was preempted", replaced=False) for rank in (2, 3)
    ]
    rig.fire("verdict")
    rig.play()
    assert rig.ends == [("a", "failed", [2, 3])]
    assert rig.machine.state is S.DEGRADED
    assert rig.states == ["interrupted", "interrupted", "lost", "lost"]


@pytest.mark.parametrize("busy", [True, False])
def test_ranks_do_not_wait_for_those_of_a_node_that_is_gone(busy: bool) -> None:
    rig = Rig(2, 2).ready()
    if busy:
        rig.run("a")
        rig.play()
    rig.feed(s.NodeGone(1, "was preempted"))
    if busy:
        rig.fire("verdict")
    rig.play()
    assert rig.machine.state is S.DEGRADED
    rig.run("b", [0, 1])
    rig.play()
    assert rig.states == ["running", "running", "lost", "lost"]
    rig.finish("b", health=p.Health(grouped=False))
    rig.play()
    assert rig.machine.state is S.DEGRADED


def test_a_node_that_comes_back_gets_its_ranks_again() -> None:
    rig = Rig(2, 2).ready()
    rig.feed(s.NodeGone(1, "stopped answering"))
    rig.join(1)
    rig.play()
    assert rig.machine.state is S.READY
    assert {worker.joined for worker in rig.workers.values()} == {rig.machine.generation}


def test_a_node_that_fell_silent_comes_back_with_the_variables_of_its_ranks() -> None:
    rig = Rig(2, 2).ready()
    rig.run("a")
    rig.play()
    rig.feed(s.NodeGone(1, "stopped answering", silent=True))
    rig.fire("verdict")
    rig.play()
    assert rig.ends == [("a", "failed", [2, 3])]
    assert rig.machine.state is S.DEGRADED
    reason = rig.logged(p.SessionChanged)[-1].reason
    assert reason == "ranks 2-3 will be back with all variables if the node is: --ranks names others"
    before = len(rig.told(p.Launch))
    effects = rig.come_back(1)
    assert rig.told(p.InterruptRanks, effects) == [(1, p.InterruptRanks([rank], "a")) for rank in (2, 3)]
    assert rig.logged(p.Returned, effects) == [p.Returned(2), p.Returned(3)]
    assert rig.logged(p.Notice, effects) == [p.Notice("node 1 answers again: ranks 2-3 kept their variables")]
    rig.play()
    assert rig.machine.state is S.READY and len(rig.told(p.Launch)) == before
    assert {worker.joined for worker in rig.workers.values()} == {rig.machine.generation}


def test_what_a_node_has_lost_while_it_was_silent_is_started_anew() -> None:
    rig = Rig(2, 2).ready()
    rig.feed(s.NodeGone(1, "stopped answering", silent=True))
    rig.play()
    rig.come_back(1, but=[3])
    rig.play()
    assert rig.machine.state is S.READY
    assert [place.rank for _, order in rig.told(p.Launch)[2:] for place in order.places] == [3]


def test_a_node_that_comes_back_during_a_run_of_the_others_waits_for_its_end() -> None:
    rig = Rig(2, 2).ready()
    rig.feed(s.NodeGone(1, "stopped answering", silent=True))
    rig.play()
    rig.run("b", [0, 1])
    rig.play()
    rig.come_back(1)
    rig.play()
    assert rig.machine.state is S.RUNNING
    rig.finish("b", health=p.Health(grouped=False))
    rig.play()
    assert rig.machine.state is S.READY
    assert {worker.joined for worker in rig.workers.values()} == {rig.machine.generation}


def test_ranks_without_process_groups_come_back_with_their_node_too() -> None:
    rig = Rig(2, 1, grouped=False).ready()
    rig.run("a")
    rig.play()
    rig.feed(s.NodeGone(1, "stopped answering", silent=True))
    rig.fire("verdict")
    rig.play()
    rig.come_back(1)
    assert rig.told(p.RegroupRanks)[-1] == (1, p.RegroupRanks([1], rig.machine.generation, True))


def test_a_rank_that_was_only_starting_when_its_node_fell_silent_goes_on_starting() -> None:
    rig = Rig(2, 1)
    rig.join()
    rig.feed(p.Launched(0, 1))
    rig.workers[0].launched = True
    rig.feed(s.NodeGone(1, "stopped answering", silent=True))
    rig.come_back(1)
    assert rig.states[1] == "launching"
    rig.play()
    assert rig.machine.state is S.READY


def test_a_session_whose_only_node_is_silent_waits_for_it_and_then_ends() -> None:
    rig = Rig(1, 2).ready()
    rig.feed(s.NodeGone(0, "stopped answering", silent=True))
    rig.play()
    assert rig.machine.state is S.DEGRADED
    rig.come_back(0)
    rig.play()
    assert rig.machine.state is S.READY
    rig.feed(s.NodeGone(0, "stopped answering", silent=True))
    effects = rig.fire("return of node 0")
    assert effects[-1] == s.End("node 0 stopped answering, and no node is left")


def test_a_new_agent_in_the_place_of_a_dead_one_starts_its_ranks_anew() -> None:
    rig = Rig(2, 1).ready()
    rig.run("a")
    rig.play()
    rig.workers.pop(1)
    effects = rig.feed(s.NodeJoined(1, "10.0.0.1", 29500, 0, 8, pid=7, predecessor="was killed by SIGKILL"))
    cause = "ended with the agent of node 1, which was killed by SIGKILL"
    assert rig.logged(p.Lost, effects) == [p.Lost(1, cause)]
    rig.fire("verdict")
    rig.play()
    assert rig.ends == [("a", "failed", [1])]
    assert rig.machine.state is S.READY


def test_without_any_node_the_session_is_over() -> None:
    rig = Rig(1, 2).ready()
    effects = rig.feed(s.NodeGone(0, "crashed"))
    assert effects[-1] == s.End("node 0 crashed, and no node is left")
    assert rig.machine.state is S.CLOSED


def test_a_run_whose_last_node_goes_away_has_failed_on_its_ranks() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.play()
    rig.feed(s.NodeGone(0, "crashed"))
    assert rig.ends == [("a", "failed", [0, 1])]


def test_only_nodes_that_have_joined_are_told_anything() -> None:
    rig = Rig(2, 1, grouped=False).ready()
    rig.feed(s.NodeGone(1, "was preempted"))
    before = len(rig.effects)
    rig.run("a", [0])
    rig.play()
    rig.ask(p.Restart("r", None))
    rig.play()
    rig.ask(p.Stop("stopped"))
    assert {effect.node_rank for effect in rig.effects[before:] if isinstance(effect, s.Tell)} == {0}


# ---- lease -----------------------------------------------------------------------------------------------------------


def test_the_lease_runs_while_nobody_is_attached_and_nothing_runs() -> None:
    rig = Rig(1, 2, lease=600.0).ready()
    assert "lease" not in rig.timers
    rig.feed(s.Attendance(0))
    assert rig.timers["lease"] == 600.0
    rig.feed(s.Attendance(2))
    assert "lease" not in rig.timers


def test_the_lease_does_not_run_during_a_run_and_begins_anew_after_it() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.run("b")
    rig.feed(s.Attendance(0))
    assert "lease" not in rig.timers
    rig.play()
    rig.finish("a")
    rig.play()
    assert "lease" not in rig.timers
    rig.finish("b")
    assert rig.timers["lease"] == 600.0


def test_the_lease_is_set_once_however_much_happens() -> None:
    rig = Rig(1, 2)
    rig.feed(s.Attendance(0))
    rig.join()
    rig.play()
    settings = [effect for effect in rig.effects if isinstance(effect, s.SetTimer) and effect.timer == "lease"]
    assert settings == [s.SetTimer("lease", 600.0)]


def test_a_lease_that_is_over_ends_the_session() -> None:
    rig = Rig(1, 2).ready()
    rig.feed(s.Attendance(0))
    rig.fire("lease")
    assert rig.machine.state is S.CLOSING
    reason = rig.logged(p.SessionChanged)[-1].reason
    assert reason == "its lease of 10 min ran out with no kernel attached and no run"


def test_a_lease_timer_that_comes_too_late_is_ignored() -> None:
    rig = Rig(1, 2).ready()
    rig.feed(s.Fired("lease"))
    assert rig.machine.state is S.READY


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_a_stopped_session_is_closed_once_every_node_has_left() -> None:
    rig = Rig(2, 1).ready()
    effects = rig.ask(p.Stop("it was stopped"))
    assert [node for node, _ in rig.told(p.Shutdown, effects)] == [0, 1]
    assert rig.timers["closing"] == s.CLOSING_SECONDS
    assert rig.logged(p.SessionChanged, effects) == [p.SessionChanged("closing", 1, "it was stopped")]
    rig.leaving.clear()
    assert rig.feed(s.NodeGone(0, "stopped")) == []
    assert rig.feed(s.NodeGone(1, "stopped"))[-1] == s.End("it was stopped")


def test_a_stopped_session_does_not_wait_for_ever_for_its_nodes() -> None:
    rig = Rig(2, 1).ready()
    rig.ask(p.Stop("it was stopped"))
    rig.feed(s.NodeGone(0, "stopped"))
    assert rig.fire("closing")[-1] == s.End("it was stopped; not every node said goodbye")
    assert rig.machine.state is S.CLOSED


def test_a_session_without_nodes_is_closed_at_once() -> None:
    rig = Rig(2, 1)
    assert rig.ask(p.Stop("it was stopped"))[-1] == s.End("it was stopped")


def test_stopping_twice_is_stopping_once() -> None:
    rig = Rig(1, 2).ready()
    rig.ask(p.Stop("it was stopped"))
    assert rig.ask(p.Stop("it was stopped again")) == []


def test_a_node_that_joins_a_closing_session_is_sent_away() -> None:
    rig = Rig(2, 1)
    rig.join(0)
    rig.ask(p.Stop("it was stopped"))
    rig.join(1)
    assert [node for node, _ in rig.told(p.Shutdown)] == [0, 1]


def test_stopping_ends_every_run() -> None:
    rig = Rig(1, 2).ready()
    for run in ("a", "b", "c"):
        rig.run(run)
    rig.play()
    rig.ask(p.Stop("it was stopped"))
    rig.play()
    assert rig.ends == [("a", "interrupted", []), ("b", "interrupted", []), ("c", "interrupted", [])]


@pytest.mark.parametrize("kind", EVENTS)
def test_what_ranks_still_say_while_the_session_closes_is_no_surprise(kind: type[p.Message]) -> None:
    rig = Rig(1, 2)
    rig.join()
    rig.feed(p.Launched(0, 1))
    if kind is p.Launched:
        rig.feed(p.Launched(1, 1))
        rig.machine.ranks[0].state = R.LAUNCHING
    rig.ask(p.Stop("it was stopped"))
    for _ in range(s.ATTEMPTS if kind is p.GroupFailed else 1):
        assert rig.feed(EVENTS[kind]) == []


def test_after_its_end_a_session_says_nothing_more() -> None:
    rig = Rig(2, 1).ready()
    rig.ask(p.Stop("it was stopped"))
    rig.fire("closing")
    late: list[s.Stimulus] = [
        s.NodeGone(1, "stopped"), s.NodeGone(0, "stopped"), s.NodeJoined(0, "10.0.0.0", 1, 0, 1), s.Attendance(0),
        s.Fired("group"), s.Fired("closing"), s.Fired("lease"),
    ]  # fmt: skip
    assert [rig.feed(stimulus) for stimulus in late] == [[]] * len(late)
