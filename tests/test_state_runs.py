"""The machine and its runs: who waits, who is refused, who failed first, and what an interrupt does."""

from __future__ import annotations

from itertools import permutations

import pytest

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.state import SessionState as S
from tests.support.machine import Rig

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
    [ended] = rig.logged(p.RunEnded)
    assert ended.reason.startswith("rank 1 is lost: ")
    assert rig.ends == [("a", "failed", [1])]
    assert rig.states == ["queued", "lost"]


# ---- failures --------------------------------------------------------------------------------------------------------


def test_when_a_rank_raises_the_others_are_given_a_moment_and_then_interrupted() -> None:
    rig = Rig(2, 2).ready()
    rig.run("a")
    rig.play()
    rig.fail("a", 2)
    assert rig.timers["verdict"] == 0.15
    assert not rig.told(p.InterruptRanks)
    rig.finish("a", 1)
    effects = rig.fire("verdict")
    assert [(node, order.ranks) for node, order in rig.told(p.InterruptRanks, effects)] == [(0, [0]), (1, [3])]
    rig.play()
    assert rig.ends == [("a", "failed", [2])]
    assert rig.machine.state is S.READY


def test_a_lost_rank_is_not_waited_with_for_what_would_tell_more() -> None:
    rig = Rig(1, 4).ready()
    rig.run("a")
    rig.play()
    rig.fail("a", 2, kind="communication")
    assert rig.timers["verdict"] == 0.15
    rig.lose(0)
    assert rig.timers["verdict"] == 0.03
    [(_, order)] = rig.told(p.InterruptRanks, rig.fire("verdict"))
    assert order.ranks == [1, 3]
    rig.lose(1)  # when all were told to leave nobody is told again
    assert "verdict" not in rig.timers
    rig.leave("a", 3)
    assert rig.ends == [("a", "failed", [0, 1, 2])]


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
