"""The machine and restarts: of ranks by hand, and of those that die at every start."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.state import SessionState as S
from tests.support.machine import Rig


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


def test_a_rank_that_is_lost_while_it_runs_no_cell_is_told_of_once_unless_that_was_wanted() -> None:
    rig = Rig().ready()
    rig.ask(p.Restart("r", [1]))
    rig.play()
    assert rig.logged(p.Notice) == []
    rig.lose(2)  # dies, and then at every start
    for _ in range(3):
        rig.lose(2)
    assert [notice.text for notice in rig.logged(p.Notice)] == [
        "rank 2 was killed by SIGKILL while it ran no cell: it is started again without variables"
    ]


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
