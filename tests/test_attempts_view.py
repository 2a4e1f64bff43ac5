"""Attempts, limits and handles as people read them."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.view.failure import failure_sentence
from modal_magic.view.model import RunView
from modal_magic.view.status import status_lines
from modal_magic.view.text import TextView

RETRIED = p.RunRetried("a", "rank 1 was killed by SIGKILL", 2, 4, 1.0)


def fold(*events: p.Event) -> RunView:
    """The view of run `a` of two ranks, after these events."""
    view = RunView("a")
    for event in (p.Submitted("a", [0, 1], 1, ""), *events):
        view.apply(event)
    return view


def test_the_next_attempt_is_told_between_what_was_written_before_and_after_it() -> None:
    events = [p.Output(0, "a", "stdout", "step 7"), RETRIED, p.Output(0, "a", "stdout", "step 5\n")]
    page = TextView(2).turn(events, last=True)
    assert page.parts == [
        ("stdout", "[rank 0] step 7\n"),
        ("stderr", "rank 1 was killed by SIGKILL. Attempt 2 of 4 begins in 1.0 s.\n"),
        ("stdout", "[rank 0] step 5\n"),
    ]


def test_a_rank_that_was_lost_is_said_to_come_back_without_variables() -> None:
    events = [p.Submitted("a", [0, 1], 1, ""), p.Lost(1, "was killed by SIGKILL"), RETRIED]
    assert TextView(2).turn(events, last=True).parts == [
        (
            "stderr",
            "rank 1 was killed by SIGKILL. Attempt 2 of 4 begins in 1.0 s. Rank 1 comes back without variables.\n",
        ),
    ]


def test_a_rank_that_an_earlier_attempt_cost_its_variables_has_not_kept_them() -> None:
    lost = p.Lost(1, "was killed by SIGKILL")
    assert fold(lost, RETRIED).emptied == {1}
    assert fold(lost, RETRIED, p.Lost(0, "was killed by SIGKILL")).emptied == {0, 1}
    error = p.RemoteError("ValueError", "boom", [], 3)
    raised = (p.Submitted("a", [0, 1], 1, "", 2), p.Failed(0, "a", 1.0, p.Health(), error))
    assert failure_sentence(fold(lost, RETRIED, *raised, p.RunEnded("a", "failed", [0], 1.0))) == (
        "rank 0 raised ValueError: boom at cell line 3. Rank 1 lost the variables of earlier cells when an earlier "
        "attempt failed; rank 0 keeps its own. This was attempt 2."
    )


def test_an_attempt_without_delay_begins_now() -> None:
    page = TextView(2).turn([p.RunRetried("a", "rank 1 is gone", 2, 2, 0.0)], last=True)
    assert page.parts == [("stderr", "rank 1 is gone. Attempt 2 of 2 begins now.\n")]


def test_a_new_attempt_forgets_how_ranks_ended_and_keeps_what_they_wrote() -> None:
    view = fold(
        p.Started(0, "a"),
        p.Output(0, "a", "stdout", "kept\n"),
        p.Lost(1, "was killed by SIGKILL"),
        p.Interrupted(0, "a", 1.0, p.Health(), "cell line 2"),
        RETRIED,
    )
    assert (view.status, view.attempt, view.failing, view.ended) == ("queued", 2, [], False)
    assert [(rank.state, rank.lost, rank.where) for rank in view.ranks.values()] == [("queued", "", "")] * 2
    assert view.ranks[0].output == "kept\n"


def test_what_dies_between_two_attempts_is_no_failure_of_the_run() -> None:
    assert fold(p.Lost(1, "was killed"), RETRIED, p.Lost(0, "was killed")).failing == []


def test_a_failure_says_which_attempt_it_was_if_there_was_more_than_one() -> None:
    end = (p.Lost(1, "was killed by SIGKILL"), p.RunEnded("a", "failed", [1], 1.0))
    assert failure_sentence(fold(RETRIED, p.Submitted("a", [0, 1], 1, "", 2), *end)).endswith(" This was attempt 2.")
    assert "attempt" not in failure_sentence(fold(*end))


def told(**times: float | None) -> list[str]:
    """What the status of a session says beside its first lines."""
    plain = p.Status("r", "train", "ready", 1, [], None, [], 1, 12.0, 1800.0, None, **times)
    return status_lines(plain, "1 × 1")[2:]


def test_the_status_has_what_is_left_of_each_limit_that_there_is() -> None:
    assert told() == []
    assert told(idle=600.0, idle_left=65.0) == ["  ends after 1:05 more without a run"]
    assert told(idle=600.0) == ["  ends after 10:00 without a run"]
    assert told(lifetime_left=3600.0) == ["  ends in any case in 1:00:00"]
