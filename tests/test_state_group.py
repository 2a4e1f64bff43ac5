"""The machine and the process group: when it is formed anew, and what is done where it does not form."""

from __future__ import annotations

import pytest

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.state import SessionState as S
from tests.support.machine import Rig, error


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
