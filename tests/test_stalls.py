"""Who waits for whom, decided without a process: what is said, what is not, and when it is said again."""

from __future__ import annotations

import pytest

from modal_magic import protocol as p
from modal_magic.state import LOOK_SECONDS, PATIENCE_SECONDS, StallWatch, find_stall
from modal_magic.view.stack import stack_lines, stall_sentence

LONG = PATIENCE_SECONDS


def waits(rank: int, collective: str = "all_reduce", line: int = 7, sequence: int = 12, **rest: object) -> p.RankStack:
    """A rank that has waited in a collective for long."""
    fields = {"group": "default group", "since": LONG, **rest}
    return p.RankStack(rank, "running", p.Whereabouts(line, "", collective, sequence=sequence, **fields))  # type: ignore[arg-type]


def computes(rank: int, line: int = 4, function: str = "", sequence: int = 11) -> p.RankStack:
    """A rank that has been in Python code for long."""
    where = p.Whereabouts(line, function, "", "default group", sequence, since=LONG)
    return p.RankStack(rank, "running", where)


def said(*stacks: p.RankStack) -> str:
    """What is said of ranks, nothing where they are not stalled."""
    stall = find_stall("run", {stack.rank: stack for stack in stacks}, PATIENCE_SECONDS)
    return stall_sentence(stall) if stall is not None else ""


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_ranks_that_wait_are_named_with_the_one_that_is_not_there() -> None:
    assert said(waits(0), waits(1), computes(2, function="load_data (data.py:12)"), waits(3)) == (
        "ranks 0-1,3 have waited 5 s in all_reduce #12 (cell line 7); "
        "rank 2 is not there: it is at cell line 4, in load_data (data.py:12)"
    )


def test_nothing_is_said_while_all_compute_however_long() -> None:
    assert said(*(computes(rank, line=rank + 1) for rank in range(4))) == ""


def test_nothing_is_said_while_all_are_in_the_same_collective_however_long() -> None:
    assert said(*(waits(rank, line=rank + 1, since=1000.0) for rank in range(4))) == ""


def test_nothing_is_said_of_a_wait_that_has_just_begun() -> None:
    assert said(waits(0, since=LONG - 0.1), computes(1)) == ""


def test_a_rank_that_has_come_late_to_the_collective_is_there() -> None:
    assert said(waits(0), waits(1, since=0.0)) == ""


def test_ranks_in_different_collectives_wait_for_each_other() -> None:
    assert said(waits(0), waits(1), waits(2, "barrier", 9), waits(3, "barrier", 9)) == (
        "ranks 0-1 have waited 5 s in all_reduce #12 (cell line 7), ranks 2-3 in barrier #12 (cell line 9): "
        "they wait for each other"
    )


def test_a_rank_that_is_briefly_in_another_collective_is_not_there() -> None:
    assert said(waits(0), waits(1, "barrier", 9, since=1.0)).endswith(
        "rank 1 is not there: it is in barrier #12 (cell line 9)"
    )


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (p.RankStack(1, "done"), "it has finished the cell"),
        (p.RankStack(1, "exited"), "it has left the cell by sys.exit"),
        (p.RankStack(1, "elsewhere"), "it does not run this cell"),
        (p.RankStack(1, "queued", p.Whereabouts()), "it has not begun the cell"),
        (p.RankStack(1, "running", p.Whereabouts()), "it is not in a line of the cell"),
        (p.RankStack(1, "running", silent="is stopped (SIGSTOP)"), "it is stopped (SIGSTOP)"),
    ],
)
def test_what_a_missing_rank_does_is_said(missing: p.RankStack, words: str) -> None:
    assert said(waits(0), missing) == (
        f"rank 0 has waited 5 s in all_reduce #12 (cell line 7); rank 1 is not there: {words}"
    )


def test_missing_ranks_that_do_the_same_share_a_sentence() -> None:
    told = said(waits(0), p.RankStack(1, "done"), p.RankStack(2, "done"), computes(3))
    assert told.endswith(
        "; ranks 1-2 are not there: they have finished the cell; rank 3 is not there: it is at cell line 4"
    )


def test_a_rank_that_has_been_in_the_collective_is_not_said_to_miss_it() -> None:
    past = p.RankStack(0, "done", p.Whereabouts(group="default group", sequence=12))
    asked = "past #12 already: do calls, shapes and dtypes agree on all ranks?"
    assert said(past, waits(1), waits(2)) == (
        "ranks 1-2 have waited 5 s in all_reduce #12 (cell line 7); "
        f"rank 0 is not there: it has finished the cell, {asked}"
    )
    assert asked in said(computes(0, sequence=12), waits(1))
    assert asked in said(waits(0, "barrier", 9, sequence=13, since=1.0), waits(1))
    assert asked not in said(waits(0, "barrier", 9, since=1.0), waits(1))
    assert asked not in said(p.RankStack(0, "done", p.Whereabouts(group="default group", sequence=11)), waits(1))


def test_only_the_members_of_a_group_are_waited_for() -> None:
    pair = {"group": "group of ranks 0-1", "members": [0, 1]}
    assert said(waits(0, **pair), waits(1, **pair), computes(2), computes(3)) == ""
    assert said(waits(0, **pair), computes(1), computes(2), computes(3)) == (
        "rank 0 has waited 5 s in all_reduce #12 (group of ranks 0-1, cell line 7); "
        "rank 1 is not there: it is at cell line 4"
    )


def test_a_send_and_its_receipt_meet() -> None:
    send = waits(0, "send", group="to rank 1", members=[0, 1])
    receive = waits(1, "recv", group="from rank 0", members=[0, 1], sequence=30)
    assert said(send, receive, computes(2)) == ""
    assert "rank 0 is not there" in said(computes(0), receive, computes(2))
    assert "rank 2" not in said(computes(0), receive, computes(2))


def test_ranks_that_wait_for_one_that_has_finished_do_not_wait_for_each_other() -> None:
    send = waits(0, "send", group="to rank 2", members=[0, 2])
    receive = waits(2, "recv", 8, group="from rank 1", members=[1, 2])
    assert said(send, p.RankStack(1, "done"), receive) == (
        "rank 0 has waited 5 s in send #12 (to rank 2, cell line 7), "
        "rank 2 in recv #12 (from rank 1, cell line 8); rank 1 is not there: it has finished the cell"
    )


def test_two_ranks_that_both_receive_from_each_other_are_told_of() -> None:
    def receives(rank: int, source: int, collective: str = "recv") -> p.RankStack:
        return waits(rank, collective, rank + 7, group=f"from rank {source}", members=[0, 1])

    assert said(receives(0, 1), receives(1, 0), computes(2)) == (
        "rank 0 has waited 5 s in recv #12 (from rank 1, cell line 7), "
        "rank 1 in recv #12 (from rank 0, cell line 8): they wait for each other"
    )
    assert said(receives(0, 1, "irecv"), receives(1, 0, "irecv")) == ""  # what each has sent before may be under way


def test_a_rank_that_receives_from_whoever_sends_meets_each_send_to_it() -> None:
    send = waits(0, "send", group="to rank 2", members=[0, 2])
    receive = waits(2, "recv", group="from any rank", members=[2])
    assert said(send, computes(1), receive) == ""


def test_a_rank_that_has_come_a_little_later_is_among_those_that_wait() -> None:
    exited = p.RankStack(0, "exited")
    assert said(exited, waits(1, since=LONG - 0.9), waits(2)).startswith("ranks 1-2 have waited 5 s in all_reduce #12")
    assert said(exited, waits(1, since=0.0), waits(2)).startswith("ranks 1-2 have waited up to 5 s in all_reduce #12")
    assert said(waits(0), waits(1, "barrier", 9), waits(2, "barrier", 9, since=3.0)).endswith(
        "ranks 1-2 in barrier #12 (cell line 9): they wait for each other"
    )


def test_the_source_of_a_broadcast_may_have_left_it_before_others_come() -> None:
    left = computes(0, line=9, sequence=12)
    assert said(left, waits(1, "broadcast"), waits(2, "broadcast")) == ""
    told = said(left, waits(1, "broadcast"), computes(2, sequence=11))
    assert told.endswith("; rank 2 is not there: it is at cell line 4")
    assert "rank 0 is not there" in said(computes(0, sequence=12), waits(1, "all_reduce"))


def test_work_that_was_begun_asynchronously_goes_on_while_a_rank_computes() -> None:
    waiting = waits(0, "all_reduce (async)")
    assert said(waiting, waits(1, "all_reduce (async)"), computes(2, sequence=12)) == ""
    assert said(waiting, computes(1, sequence=12), computes(2, sequence=11)) == (
        "rank 0 has waited 5 s in all_reduce (async) #12 (cell line 7); rank 2 is not there: it is at cell line 4"
    )
    assert "rank 1 is not there" in said(waits(0), computes(1, sequence=12))


# ---- when it is said -------------------------------------------------------------------------------------------------


def looks(watch: StallWatch, run: str | None, seconds: float, began: float = 0.0) -> list[float]:
    """When ranks are asked, at beats four times a second."""
    moments = [began + count / 4 for count in range(int(seconds * 4) + 1)]
    return [now for now in moments if watch.due(run, now)]


def test_ranks_are_asked_once_a_second_and_never_in_a_short_run() -> None:
    assert looks(StallWatch(), "run", 0.75) == []
    assert looks(StallWatch(), "run", 4.0) == [LOOK_SECONDS * count for count in (1, 2, 3, 4)]


def test_ranks_are_not_asked_without_a_run() -> None:
    assert looks(StallWatch(), None, 10.0) == []


def test_a_stall_is_said_once_and_again_only_when_it_has_changed() -> None:
    watch = StallWatch()
    watch.due("run", 0.0)
    still = {0: waits(0), 1: computes(1)}
    longer = {0: waits(0, since=60.0), 1: computes(1)}
    moved = {0: waits(0, since=60.0), 1: computes(1, line=5)}
    assert watch.news(still, 10.0) is not None
    assert [watch.news(longer, 10.0 + second) for second in range(1, 100)] == [None] * 99
    assert watch.news(moved, 110.0) is not None


def test_what_changes_all_the_time_is_said_ever_less_often() -> None:
    watch = StallWatch()
    watch.due("run", 0.0)
    told = [now for now in range(1000) if watch.news({0: waits(0, sequence=now), 1: computes(1)}, now)]
    assert told == [0, 5, 15, 35, 75, 155, 315, 635]


STOPPED = p.RankStack(1, "running", silent="is stopped (SIGSTOP)")
HOLDS_GIL = p.RankStack(1, "running", silent="does not answer: C code computes and holds the GIL")
ADVICE = ". %modal_stack shows more, an interrupt ends the wait"


def told_of(*stacks: p.RankStack, seconds: int = 20) -> list[str]:
    """What a watch says of ranks that stay as they are, asked once a second."""
    watch = StallWatch()
    watch.due("run", 0.0)
    found = [watch.news({stack.rank: stack for stack in stacks}, float(now)) for now in range(seconds)]
    return [stall_sentence(stall) for stall in found if stall is not None]


def test_a_rank_that_holds_up_the_end_of_a_cell_is_named_once() -> None:
    done = p.RankStack(0, "done")
    assert told_of(done, STOPPED) == [f"rank 0 has finished the cell; rank 1 has not: it is stopped (SIGSTOP){ADVICE}"]
    assert told_of(done, HOLDS_GIL, p.RankStack(2, "exited"), computes(3, function="save")) == [
        "ranks 0,2 have finished the cell; rank 1 has not: it does not answer: C code computes and holds the GIL; "
        f"rank 3 has not: it is at cell line 4, in save{ADVICE}",
    ]
    moves = p.RankStack(1, "running", p.Whereabouts(4, since=0.5))
    assert told_of(done, moves) == []


def test_a_rank_that_comes_to_the_end_soon_after_the_others_is_not_named_however_long_it_was_at_its_line() -> None:
    watch = StallWatch()
    watch.due("run", 0.0)
    assert watch.news({0: computes(0), 1: computes(1)}, 20.0) is None
    assert watch.news({0: p.RankStack(0, "done"), 1: computes(1)}, 21.0) is None
    assert watch.news({0: p.RankStack(0, "done"), 1: computes(1)}, 21.0 + PATIENCE_SECONDS) is not None


def test_a_stopped_rank_is_named_also_while_others_compute() -> None:
    assert told_of(computes(0), STOPPED) == [f"rank 1 is stopped (SIGSTOP){ADVICE}"]
    assert told_of(STOPPED, seconds=5) == []
    assert told_of(computes(0), HOLDS_GIL) == []


def test_a_rank_that_answers_now_and_then_is_not_called_silent() -> None:
    watch = StallWatch()
    watch.due("run", 0.0)
    busy = p.RankStack(1, "running", p.Whereabouts(4, since=0.5))
    looks = [(now, HOLDS_GIL if now % 4 else busy) for now in range(40)]
    assert not any(watch.news({0: p.RankStack(0, "done"), 1: stack}, float(now)) for now, stack in looks)


def test_the_next_run_begins_anew() -> None:
    watch = StallWatch()
    stall = {0: waits(0), 1: computes(1)}
    watch.due("first", 0.0)
    assert watch.news(stall, 6.0) is not None
    watch.due("second", 7.0)
    assert watch.news(stall, 8.0) is not None


# ---- the words of %modal_stack ---------------------------------------------------------------------------------------


def test_ranks_that_agree_share_a_line_and_their_frames() -> None:
    frames = [p.Frame("/x/torch/distributed/distributed_c10d.py", 3252, "all_reduce"), p.Frame("cell", 7, "<module>")]
    where = p.Whereabouts(7, "", "all_reduce", "default group", 412)
    stacks = [p.RankStack(rank, "running", where, frames) for rank in range(3)]
    stacks.append(
        p.RankStack(3, "running", p.Whereabouts(4, "load_data (data.py:12)"), [p.Frame("/x/data.py", 12, "load_data")])
    )
    assert stack_lines(stacks, whole=False) == [
        "ranks 0-2: running, in all_reduce #412 (default group), cell line 7",
        "    distributed_c10d.py:3252, in all_reduce",
        "    cell line 7, in <module>",
        "rank 3: running, at cell line 4, in load_data (data.py:12)",
        "    data.py:12, in load_data",
    ]
    assert "    /x/data.py:12, in load_data" in stack_lines(stacks, whole=True)


def test_how_long_a_rank_has_waited_is_shown_from_a_second_on() -> None:
    assert stack_lines([waits(0)], whole=False) == [
        "rank 0: running, in all_reduce #12 (default group), cell line 7, for 5.0 s"
    ]
    assert "for" not in stack_lines([waits(0, since=0.9)], whole=False)[0]


def test_ranks_that_do_nothing_or_say_nothing_have_a_line_too() -> None:
    stacks = [
        p.RankStack(0, "done", p.Whereabouts(sequence=3, group="default group")),
        p.RankStack(1, "lost"),
        p.RankStack(2, "running", silent="does not answer: C code computes and holds the GIL"),
        p.RankStack(3, "rendezvous", p.Whereabouts()),
    ]
    assert stack_lines(stacks, whole=False) == [
        "rank 0: done",
        "rank 1: lost",
        "rank 2: running, does not answer: C code computes and holds the GIL",
        "rank 3: rendezvous, getting ready for the next cell",
    ]
