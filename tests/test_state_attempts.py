"""Time limits and retries, by the machine: what is tried again, when, and what is not."""

from __future__ import annotations

import pytest

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.state import SessionState as S
from modal_magic.state.attempts import delay_before
from tests.support.machine import Rig


def running(retries: p.Retries | None = None, timeout: float | None = None, ranks: int = 4) -> Rig:
    """A session in which run `a` goes on."""
    rig = Rig(1, ranks).ready()
    rig.run("a", timeout=timeout, retries=retries)
    rig.play()
    return rig


def lose(rig: Rig, *ranks: int) -> None:
    """These ranks die, and the others are freed."""
    rig.lose(*ranks)
    if "verdict" in rig.timers:
        rig.fire("verdict")
    rig.play()


def attempts(rig: Rig) -> list[int]:
    """The attempts that ranks were given, in order."""
    return [order.task.attempt for _, order in rig.told(p.Submit)]


# ---- delays ----------------------------------------------------------------------------------------------------------


def test_delays_are_those_of_modal_retries() -> None:
    assert [delay_before(attempt, p.Retries(9)) for attempt in range(2, 9)] == [1, 2, 4, 8, 16, 32, 60]
    fixed = p.Retries(3, initial_delay=3.0, backoff_coefficient=1.0)
    assert [delay_before(attempt, fixed) for attempt in (2, 3, 4)] == [3, 3, 3]
    assert delay_before(2, p.Retries(1, initial_delay=60.0, max_delay=5.0)) == 5
    assert delay_before(2, p.Retries(1, initial_delay=0.0)) == 0


def test_no_delay_is_too_much_to_work_out() -> None:
    assert delay_before(10**9, p.Retries(10**9, 1.0, 10.0, 60.0)) == 60
    assert delay_before(3, p.Retries(3, 1e300, 1e300, 60.0)) == 60
    assert delay_before(2, p.Retries(3, -1.0)) == 0


# ---- retries ---------------------------------------------------------------------------------------------------------


def test_a_run_whose_rank_was_lost_begins_again_after_the_delay_on_ranks_that_are_all_there() -> None:
    rig = running(p.Retries(2))
    lose(rig, 1)
    assert rig.logged(p.RunRetried) == [p.RunRetried("a", "rank 1 was killed by SIGKILL", 2, 3, 1.0)]
    assert rig.ends == []
    assert rig.machine.state is S.READY
    assert rig.timers["retry"] == 1.0
    rig.fire("retry")
    assert attempts(rig) == [1, 2]
    assert [event.attempt for event in rig.logged(p.Submitted)] == [1, 2]
    rig.play()
    rig.finish("a")
    assert rig.ends == [("a", "done", [])]


def test_a_run_that_is_due_before_its_ranks_are_there_waits_for_them() -> None:
    rig = running(p.Retries(1, initial_delay=0.0))
    rig.lose(1)
    rig.fire("verdict")
    while "retry" not in rig.timers:
        rig.turn()
    rig.fire("retry")
    assert attempts(rig) == [1]
    rig.play()
    assert attempts(rig) == [1, 2]


def test_after_the_last_attempt_a_run_has_failed() -> None:
    rig = running(p.Retries(2))
    for _ in range(2):
        lose(rig, 1)
        rig.fire("retry")
        rig.play()
    lose(rig, 2)
    assert rig.ends == [("a", "failed", [2])]
    assert [(event.attempt, event.delay) for event in rig.logged(p.RunRetried)] == [(2, 1.0), (3, 2.0)]
    assert "retry" not in rig.timers


def test_a_cell_that_raised_is_not_tried_again() -> None:
    rig = running(p.Retries(3))
    rig.fail("a", 1)
    rig.fire("verdict")
    rig.play()
    assert rig.ends == [("a", "failed", [1])]


def test_a_cell_that_raised_is_tried_again_if_that_is_wanted() -> None:
    rig = running(p.Retries(3, on_error=True))
    rig.fail("a", 1)
    rig.fire("verdict")
    rig.play()
    assert [event.cause for event in rig.logged(p.RunRetried)] == ["rank 1 raised ValueError: boom"]
    rig.fire("retry")
    assert attempts(rig) == [1, 2]


def test_a_lost_rank_is_the_cause_also_where_others_lost_their_connection_before_it_was_known() -> None:
    rig = running(p.Retries(3))
    rig.fail("a", 0, kind="communication")
    lose(rig, 1)
    assert [event.cause for event in rig.logged(p.RunRetried)] == ["rank 1 was killed by SIGKILL"]


def test_connection_errors_alone_are_no_lost_rank() -> None:
    rig = running(p.Retries(3))
    rig.fail("a", kind="communication")
    assert rig.ends == [("a", "failed", [0, 1, 2, 3])]


def test_a_rank_that_was_killed_to_end_an_interrupted_run_is_no_reason_to_begin_again() -> None:
    rig = running(p.Retries(3))
    rig.ask(p.InterruptRun("a"))
    rig.feed(p.Lost(1, "did not leave the cell", forced=True))
    rig.play()
    assert rig.ends == [("a", "interrupted", [])]


def test_a_run_that_is_interrupted_while_it_fails_is_not_tried_again() -> None:
    rig = running(p.Retries(3))
    rig.lose(1)
    rig.ask(p.InterruptRun("a"))
    rig.play()
    assert rig.ends == [("a", "failed", [1])]
    assert rig.logged(p.RunRetried) == []


def test_a_run_whose_ranks_are_restarted_is_not_tried_again() -> None:
    rig = running(p.Retries(3))
    rig.ask(p.Restart("r", None))
    rig.play()
    assert [status for _, status, _ in rig.ends] == ["failed"]
    assert rig.logged(p.RunRetried) == []


def test_no_other_run_comes_between_two_attempts() -> None:
    rig = running(p.Retries(1))
    rig.run("b")
    lose(rig, 1)
    assert rig.machine.state is S.READY
    assert [order.task.run for _, order in rig.told(p.Submit)] == ["a"]
    rig.fire("retry")
    rig.play()
    rig.finish("a")
    rig.play()
    assert [order.task.run for _, order in rig.told(p.Submit)] == ["a", "a", "b"]


def test_an_interrupt_between_two_attempts_ends_the_run_and_lets_the_next_one_begin() -> None:
    rig = running(p.Retries(1))
    rig.run("b")
    lose(rig, 1)
    rig.ask(p.InterruptRun("a"))
    assert rig.ends == [("a", "interrupted", [])]
    assert "retry" not in rig.timers
    assert [order.task.run for _, order in rig.told(p.Submit)] == ["a", "b"]


def test_a_run_whose_rank_does_not_come_back_fails() -> None:
    rig = running(p.Retries(1), ranks=2)
    rig.stillborn = {1}
    lose(rig, 1)
    assert rig.machine.state is S.DEGRADED
    rig.fire("retry")
    assert rig.ends == [("a", "failed", [1])]
    assert rig.logged(p.RunEnded)[-1].reason.startswith("rank 1 is lost: ")


@pytest.mark.parametrize("silent", [True, False])
def test_an_attempt_is_not_spent_before_the_node_that_was_taken_away_is_back(silent: bool) -> None:
    rig = Rig(2, 2, patience=300.0).ready()
    rig.run("a", retries=p.Retries(1, initial_delay=0.0))
    rig.play()
    rig.feed(s.NodeGone(1, "left: preempted", silent=silent, returns=True))
    rig.fire("verdict")
    rig.play()
    rig.fire("retry")
    rig.fire("return of node 1") if silent else None
    rig.run("b", [0])  # holds back what comes after it, too
    assert attempts(rig) == [1, 1] and rig.machine.state is S.DEGRADED
    told = [notice.text for notice in rig.logged(p.Notice)]
    assert told == ["attempt 2 begins when node 1 is back"]
    rig.join(1)
    rig.play()
    assert attempts(rig) == [1, 1, 2, 2]
    rig.finish("a")
    rig.play()
    assert rig.ends == [("a", "done", [])] and rig.machine.active is not None


@pytest.mark.parametrize("end", ["interrupt", "too long"])
def test_an_attempt_that_waits_for_a_node_can_be_ended_and_does_not_wait_for_ever(end: str) -> None:
    rig = Rig(2, 1, patience=300.0).ready()
    rig.run("a", retries=p.Retries(1, initial_delay=0.0))
    rig.play()
    rig.feed(s.NodeGone(1, "left: preempted", returns=True))
    rig.fire("verdict")
    rig.play()
    assert rig.logged(p.SessionChanged)[-1].reason == (
        "rank 1 starts anew, without variables, when node 1 is back. Until then --ranks names others"
    )
    rig.run("other", [1])
    rig.fire("retry")
    assert rig.ends == []
    if end == "interrupt":
        rig.ask(p.InterruptRun("a"))
        assert rig.logged(p.RunEnded)[-1].reason == (
            "rank 1 is lost: --ranks names others, rank 1 starts anew when node 1 is back"
        )
    else:
        assert rig.timers["return of node 1"] == 300.0
        rig.fire("return of node 1")
    assert rig.ends == [
        ("a", "interrupted" if end == "interrupt" else "failed", [] if end == "interrupt" else [1]),
        ("other", "failed", [1]),
    ]


def test_a_session_that_ends_between_two_attempts_ends_the_run() -> None:
    rig = running(p.Retries(1))
    lose(rig, 1)
    rig.ask(p.Stop("it was stopped"))
    assert rig.ends == [("a", "interrupted", [])]


# ---- time limits -----------------------------------------------------------------------------------------------------


def test_a_run_past_its_time_limit_is_interrupted_and_says_why() -> None:
    rig = running(timeout=90.0)
    assert rig.timers["timeout"] == 90.0
    effects = rig.fire("timeout")
    assert [order.ranks for _, order in rig.told(p.InterruptRanks, effects)] == [[0, 1, 2, 3]]
    rig.play()
    (end,) = rig.logged(p.RunEnded)
    assert (end.status, end.culprits) == ("interrupted", [])
    assert end.reason == "it reached its time limit of 90s (--timeout)"


def test_a_time_limit_counts_from_where_the_run_begins() -> None:
    rig = running()
    rig.run("b", timeout=5.0)
    assert "timeout" not in rig.timers
    rig.finish("a")
    assert rig.timers["timeout"] == 5.0


def test_a_time_limit_ends_with_its_run() -> None:
    rig = running(timeout=5.0)
    rig.finish("a")
    assert "timeout" not in rig.timers
    rig.run("b")
    rig.play()
    assert not rig.told(p.InterruptRanks, rig.feed(s.Fired("timeout")))


def test_each_attempt_has_the_whole_time_and_one_that_took_too_long_is_not_tried_again() -> None:
    rig = running(p.Retries(3), timeout=5.0)
    lose(rig, 1)
    assert "timeout" not in rig.timers
    rig.fire("retry")
    rig.play()
    assert rig.timers["timeout"] == 5.0
    rig.fire("timeout")
    rig.play()
    assert rig.ends == [("a", "interrupted", [])]


@pytest.mark.parametrize("first", ["interrupt", "failure"])
def test_what_ended_a_run_before_its_time_limit_is_what_is_told(first: str) -> None:
    rig = running(timeout=5.0)
    if first == "interrupt":
        rig.ask(p.InterruptRun("a"))
    else:
        rig.fail("a", 1)
    rig.workers[2].leaving = False
    rig.fire("timeout")
    rig.play()
    (end,) = rig.logged(p.RunEnded)
    assert (end.status, end.reason) == ("interrupted" if first == "interrupt" else "failed", "")
