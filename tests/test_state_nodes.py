"""The machine and the nodes of a session: they join, go away, fall silent and come back."""

from __future__ import annotations

import pytest

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.state import SessionState as S
from tests.support.machine import Rig

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


def test_ranks_that_leave_a_run_unasked_go_with_their_node_and_the_run_has_failed_on_them() -> None:
    rig = Rig(2, 2, grouped=False).ready()
    rig.run("a")
    rig.play()
    rig.leave("a", 2, 3)  # their agent has told them so
    rig.fire("verdict")
    rig.play()
    rig.feed(s.NodeGone(1, "left: preempted"))
    assert rig.ends == [("a", "failed", [2, 3])]
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
    assert reason == (
        "node 1 does not answer: ranks 2-3 will be back with all variables if it does. Until then --ranks names others"
    )
    rig.run("c")
    assert rig.logged(p.RunEnded)[-1].reason == ("ranks 2-3 are lost, for node 1 does not answer: --ranks names others")
    before = len(rig.told(p.Launch))
    effects = rig.come_back(1)
    assert rig.told(p.InterruptRanks, effects) == [(1, p.InterruptRanks([rank], "a")) for rank in (2, 3)]
    assert rig.logged(p.Returned, effects) == [p.Returned(2), p.Returned(3)]
    assert rig.logged(p.Notice, effects) == [p.Notice("node 1 answers again: ranks 2-3 kept their variables")]
    rig.play()
    assert rig.machine.state is S.READY and len(rig.told(p.Launch)) == before
    assert {worker.joined for worker in rig.workers.values()} == {rig.machine.generation}


@pytest.mark.parametrize("up", [False, True])
def test_where_no_rank_is_left_it_is_said_how_to_start_anew(up: bool) -> None:
    rig = Rig(2, 2)
    for node in (0, 1):
        rig.join(node)
    if up:
        rig.play()
    for node in (0, 1):
        rig.feed(s.NodeGone(node, "stopped answering", silent=True))
    rig.play()
    assert rig.logged(p.SessionChanged)[-1].state == "degraded"
    rig.run("a")
    begun = "back with all variables" if up else "there"
    anew = "%modal_stop ends the session, the next cell starts anew"
    rig.ask(p.Restart("r", None))
    assert rig.answered(p.Refused) == [p.Refused("r", f"the nodes of ranks 0-3 do not answer: {anew}")]
    told = [rig.logged(p.SessionChanged)[-1].reason, rig.logged(p.RunEnded)[-1].reason]
    assert told == [
        f"nodes 0-1 do not answer: ranks 0-3 will be {begun} if they do. Otherwise {anew}",
        f"ranks 0-3 are lost, for nodes 0-1 do not answer: {anew}",
    ]


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


def test_a_session_whose_last_node_is_taken_away_waits_until_it_is_back_but_not_for_ever() -> None:
    rig = Rig(1, 2, patience=300.0).ready()
    rig.run("a")
    rig.play()
    effects = rig.feed(s.NodeGone(0, "left: preempted", returns=True))
    assert rig.ends == [("a", "failed", [0, 1])]
    assert rig.machine.state is S.DEGRADED and rig.timers["nodes"] == 300.0
    assert rig.logged(p.SessionChanged, effects)[-1].reason == (
        "no node is left: ranks start anew, without variables, when theirs is back. "
        "Otherwise %modal_stop ends the session, the next cell starts anew"
    )
    rig.run("too early")
    assert rig.logged(p.RunEnded)[-1].reason == (
        "ranks 0-1 are lost, for no node is left: they start anew when theirs is back. "
        "Otherwise %modal_stop ends the session, the next cell starts anew"
    )
    rig.join(0)
    rig.play()
    assert rig.machine.state is S.READY and "nodes" not in rig.timers
    rig.run("b")
    rig.play()
    rig.finish("b")
    assert rig.ends[-1] == ("b", "done", [])
    rig.feed(s.NodeGone(0, "left: preempted", returns=True))
    effects = rig.fire("nodes")
    assert effects[-1] == s.End("no node is left, and none has come back within 300 s")


def test_a_session_whose_last_node_is_cancelled_is_over() -> None:
    rig = Rig(1, 2, patience=300.0).ready()
    assert rig.feed(s.NodeGone(0, "left: cancelled"))[-1] == s.End("node 0 left: cancelled, and no node is left")


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
