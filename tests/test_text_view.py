"""What people read of a run: pages of text, the words of a failure, a session's status."""

from __future__ import annotations

import re
from collections import deque
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from modal_magic import protocol as p
from modal_magic.ranges import parse_ranks
from modal_magic.view.failure import failure_lines, failure_sentence, strip_colours
from modal_magic.view.model import RankView, RunView
from modal_magic.view.pacing import BURST_BYTES, PIECE, RATE_BYTES, REST_BYTES, Allowance, fair_rest, pieces
from modal_magic.view.status import seconds_in_words, status_lines
from modal_magic.view.text import MERGE_FROM, Page, Part, TextView, bytes_in_words

RUN = "a"


def said(rank: int, text: str, stream: p.Stream = "stdout") -> p.Event:
    return p.Output(rank, RUN, stream, text)


def shown(rank: int, data: dict[str, object], kind: str = "display", display_id: str | None = None) -> p.Event:
    return p.Display(rank, RUN, kind, data, {}, display_id)  # type: ignore[arg-type]


def text_of(page: Page) -> str:
    """The text of a page, whatever its stream; a rich output as its kind in angle brackets."""
    return "".join(part[1] if isinstance(part, tuple) else f"<{part.kind} of {part.rank}>\n" for part in page.parts)


def everyone(text: str, count: int = MERGE_FROM) -> list[p.Event]:
    return [said(rank, text) for rank in range(count)]


# ---- lines and labels ------------------------------------------------------------------------------------------------


def test_every_line_carries_its_rank() -> None:
    page = TextView(4).turn([said(2, "one\ntwo\n"), said(0, "three\n")], last=False)
    assert text_of(page) == "[rank 2] one\n[rank 2] two\n[rank 0] three\n"


def test_an_unfinished_line_waits_for_its_end_or_that_of_the_run() -> None:
    view = TextView(2)
    assert view.turn([said(0, "lo"), said(1, "other\n")], last=False).parts == [("stdout", "[rank 1] other\n")]
    assert view.turn([said(0, "ss\nre")], last=False).parts == [("stdout", "[rank 0] loss\n")]
    assert view.turn([], last=True).parts == [("stdout", "[rank 0] re\n")]


def test_streams_are_kept_apart_and_text_of_one_is_put_together() -> None:
    events = [said(0, "a\n"), said(1, "b\n"), said(0, "warning\n", "stderr"), said(1, "c\n")]
    assert TextView(2).turn(events, last=True).parts == [
        ("stdout", "[rank 0] a\n[rank 1] b\n"),
        ("stderr", "[rank 0] warning\n"),
        ("stdout", "[rank 1] c\n"),
    ]


def test_only_the_ranks_that_are_wanted_are_shown() -> None:
    view = TextView(4, show=[1])
    events = [said(0, "a\n"), said(1, "b\n"), shown(0, {"text/html": "x"}), shown(1, {"text/html": "y"})]
    assert text_of(view.turn(events, last=True)) == "[rank 1] b\n[rank 1]\n<display of 1>\n"
    assert TextView(4, show=[]).turn(events, last=True).parts == []


def test_events_without_output_make_no_page() -> None:
    events: list[p.Event] = [p.Submitted(RUN, [0], 1, "pass"), p.Started(0, RUN), p.RunEnded(RUN, "done", [], 1.0)]
    assert TextView(1).turn(events, last=True).parts == []


def test_a_rich_output_comes_after_its_label_and_after_what_was_written_before() -> None:
    events = [said(0, "before\n"), shown(0, {"text/plain": "Figure", "image/png": "…"}), said(0, "after\n")]
    page = TextView(2).turn(events, last=True)
    assert text_of(page) == "[rank 0] before\n[rank 0]\n<display of 0>\n[rank 0] after\n"
    assert page.parts[2] is events[1]


def test_an_unfinished_line_is_shown_before_the_rich_output_that_follows_it() -> None:
    events = [said(0, "the figure:"), said(1, "not yet"), shown(0, {"image/png": "…"}), said(1, " done\n")]
    page = TextView(2).turn(events, last=True)
    assert text_of(page) == "[rank 0] the figure:\n[rank 0]\n<display of 0>\n[rank 1] not yet done\n"


def test_a_value_that_is_only_text_is_shown_as_lines() -> None:
    page = TextView(2).turn([shown(1, {"text/plain": "tensor([1,\n        2])"}, "result")], last=False)
    assert page.parts == [("value", "[rank 1] tensor([1,\n[rank 1]         2])\n")]


def test_text_that_will_be_updated_stays_a_display() -> None:
    first, second = shown(0, {"text/plain": "1"}, display_id="x"), shown(0, {"text/plain": "2"}, "update", "x")
    assert TextView(1).turn([first, second], last=False).parts == [("value", "[rank 0]\n"), first, second]


# ---- merging ---------------------------------------------------------------------------------------------------------


def test_merging_begins_with_nine_ranks() -> None:
    assert [TextView(count).merging for count in (8, 9)] == [False, True]
    assert not TextView(64, show=range(8)).merging
    assert TextView(2, merge=True).merging
    assert not TextView(64, merge=False).merging


def test_a_line_that_every_rank_says_is_shown_once_and_at_once() -> None:
    assert text_of(TextView(9).turn(everyone("hello\n"), last=False)) == "[ranks 0-8] hello\n"


def test_a_line_waits_one_turn_for_the_ranks_that_have_not_said_it() -> None:
    view = TextView(9)
    assert text_of(view.turn(everyone("hello\n", 8), last=False)) == ""
    assert text_of(view.turn([said(8, "hello\n")], last=False)) == "[ranks 0-8] hello\n"


def test_a_rank_that_is_late_is_shown_by_itself() -> None:
    view = TextView(9)
    pages = [view.turn(events, last=False) for events in (everyone("hello\n", 8), [], [said(8, "hello\n")], [])]
    assert [text_of(page) for page in pages] == ["", "[ranks 0-7] hello\n", "", "[rank 8] hello\n"]


def test_at_the_end_nothing_waits() -> None:
    view = TextView(9)
    page = view.turn([said(0, "a\nb"), said(1, "a\n"), said(2, "b")], last=True)
    assert text_of(page) == "[ranks 0-1] a\n[ranks 0,2] b\n"
    assert view.turn([], last=True).parts == []


def test_what_was_said_before_a_line_is_shown_before_it() -> None:
    page = TextView(9).turn([said(0, "mine\n"), *everyone("hello\n")], last=False)
    assert text_of(page) == "[rank 0] mine\n[ranks 0-8] hello\n"


def test_the_nth_time_that_a_rank_says_a_line_goes_with_the_nth_time_of_the_others() -> None:
    page = TextView(9).turn([said(0, "epoch\n" * 2), *everyone("epoch\n")[1:], said(1, "epoch\n")], last=True)
    assert text_of(page) == "[ranks 0-8] epoch\n[ranks 0-1] epoch\n"


def test_the_same_words_on_another_stream_are_another_line() -> None:
    page = TextView(2, merge=True).turn([said(0, "x\n"), said(1, "x\n", "stderr")], last=True)
    assert page.parts == [("stdout", "[rank 0] x\n"), ("stderr", "[rank 1] x\n")]


def test_a_rich_output_does_not_overtake_the_lines_before_it() -> None:
    view = TextView(9)
    page = view.turn([said(0, "a\n"), shown(0, {"text/html": "x"}), *everyone("b\n")], last=False)
    assert text_of(page) == "[rank 0] a\n[rank 0]\n<display of 0>\n[ranks 0-8] b\n"


def test_equal_values_of_many_ranks_are_merged() -> None:
    page = TextView(9).turn([shown(rank, {"text/plain": "4"}, "result") for rank in range(9)], last=False)
    assert text_of(page) == "[ranks 0-8] 4\n"


def test_a_rank_that_says_the_same_lines_in_another_order_keeps_its_order() -> None:
    page = TextView(2, merge=True).turn([said(0, "a\nb\n"), said(1, "b\na\n")], last=True)
    assert lines_of(page, 1) == ["b", "a"]


@settings(deadline=None, max_examples=60)
@given(
    some.lists(
        some.lists(some.tuples(some.integers(0, 3), some.sampled_from(["a\n", "b\n", "a\nb\n", "c\n", "b"]))),
        max_size=5,
    )
)
def test_merged_or_not_each_rank_reads_as_it_wrote(turns: list[list[tuple[int, str]]]) -> None:
    view = TextView(4, merge=True)
    whole = Page()
    for number, turn in enumerate(turns):
        whole.parts += view.turn([said(*chunk) for chunk in turn], last=number == len(turns) - 1).parts
    for rank in range(4):
        text = "".join(text for turn in turns for number, text in turn if number == rank)
        assert lines_of(whole, rank) == text.splitlines()


def lines_of(page: Page, rank: int) -> list[str]:
    """The lines of a page that carry the label of a rank."""
    found = [re.fullmatch(r"\[ranks? ([0-9,-]+)\] (.*)", line) for line in text_of(page).splitlines()]
    return [match[2] for match in found if match and rank in parse_ranks(match[1])]


# ---- the model -------------------------------------------------------------------------------------------------------


def fold(*events: p.Event) -> RunView:
    view = RunView(RUN)
    for event in events:
        view.apply(event)
    return view


def error(
    message: str = "boom", line: int = 3, name: str = "ValueError", kind: p.ErrorKind = "exception"
) -> p.RemoteError:
    return p.RemoteError(name, message, [f"Cell In[1], line {line}", f"{name}: {message}"], line, kind)


def failed(rank: int, *arguments: object) -> p.Failed:
    return p.Failed(rank, RUN, 1.0, p.Health(), error(*arguments))  # type: ignore[arg-type]


def left(rank: int, where: str = "all_reduce at cell line 4") -> p.Interrupted:
    return p.Interrupted(rank, RUN, 1.0, p.Health(), where)


def submitted(count: int) -> p.Submitted:
    return p.Submitted(RUN, list(range(count)), 1, "pass")


def ended(*culprits: int) -> p.RunEnded:
    return p.RunEnded(RUN, "failed", list(culprits), 1.0)


def test_a_run_goes_from_queued_to_running_to_its_end() -> None:
    view = fold(p.RunQueued(RUN, 2))
    assert (view.status, view.position, view.ended) == ("queued", 2, False)
    view.apply(p.Submitted(RUN, [1, 3], 7, "source"))
    assert (view.status, view.source, list(view.ranks), view.ended) == ("running", "source", [1, 3], False)
    view.apply(p.RunEnded(RUN, "done", [], 2.5, 99))
    assert (view.status, view.seconds, view.withheld, view.ended) == ("done", 2.5, 99, True)


def test_a_rank_goes_from_queued_to_running_to_its_end() -> None:
    view = fold(submitted(4))
    assert {rank.state for rank in view.ranks.values()} == {"queued"}
    for event in (p.Started(0, RUN), p.Started(1, RUN), p.Finished(1, RUN, 0.5, p.Health(), 3), failed(2), left(3)):
        view.apply(event)
    assert [rank.state for rank in view.ranks.values()] == ["running", "done", "failed", "interrupted"]
    assert (view.ranks[1].exit_code, view.ranks[1].seconds) == (3, 0.5)
    assert view.ranks[2].error == error()
    assert view.ranks[3].where == "all_reduce at cell line 4"


def test_what_a_rank_wrote_is_kept_by_stream() -> None:
    view = fold(submitted(1), said(0, "a"), said(0, "b", "stderr"), said(0, "c\n"))
    assert (view.ranks[0].output, view.ranks[0].stdout, view.ranks[0].stderr) == ("abc\n", "ac\n", "b")


def test_the_result_is_the_value_of_the_last_expression() -> None:
    assert RankView(0).result is None
    view = fold(submitted(1), shown(0, {"text/plain": "1"}), shown(0, {"text/plain": "42"}, "result"))
    assert view.ranks[0].result == "42"


def test_events_of_other_runs_change_nothing() -> None:
    view = fold(submitted(1))
    for event in (p.Started(0, "b"), p.RunEnded("b", "done", [], 1.0), p.Notice("hello"), p.Launched(0, 1)):
        view.apply(event)
    assert (view.status, view.ranks[0].state) == ("running", "queued")


def test_a_rank_that_is_lost_after_it_had_ended_had_ended() -> None:
    view = fold(submitted(2), p.Finished(0, RUN, 1.0, p.Health()), p.Lost(0, "was killed"), p.Lost(1, "was killed"))
    assert [rank.state for rank in view.ranks.values()] == ["done", "lost"]
    assert view.ranks[1].lost == "was killed"
    view.apply(p.Lost(7, "was killed"))
    assert list(view.ranks) == [0, 1]


# ---- failures --------------------------------------------------------------------------------------------------------


def test_a_rank_that_raised_is_named_with_its_line_and_the_others_with_where_they_were() -> None:
    view = fold(submitted(4), failed(2, "shape mismatch", 12, "RuntimeError"), left(0), left(1), left(3), ended(2))
    assert failure_sentence(view) == (
        "rank 2 raised RuntimeError: shape mismatch at cell line 12. Ranks 0-1,3 were interrupted in all_reduce at "
        "cell line 4. Variables are kept on all ranks."
    )


def test_ranks_that_were_interrupted_in_different_places_are_told_apart() -> None:
    view = fold(submitted(3), failed(0), left(1, "barrier at cell line 9"), left(2, "before it began"), ended(0))
    assert failure_sentence(view) == (
        "rank 0 raised ValueError: boom at cell line 3. Rank 1 was interrupted in barrier at cell line 9. Rank 2 was "
        "interrupted before it began. Variables are kept on all ranks."
    )


def test_equal_failures_are_told_once() -> None:
    view = fold(submitted(3), failed(0), failed(2), failed(1), ended(0, 2, 1))
    assert failure_sentence(view) == (
        "ranks 0-2 raised ValueError: boom at cell line 3. Variables are kept on all ranks."
    )
    assert failure_lines("RankFailed", view) == [
        "\x1b[31m[ranks 0-2]\x1b[0m",
        "Cell In[1], line 3",
        "ValueError: boom",
        "",
        "\x1b[31mRankFailed\x1b[0m: ranks 0-2 raised ValueError: boom at cell line 3. Variables are kept on all ranks.",
    ]


def test_different_failures_are_told_in_the_order_of_the_culprits() -> None:
    view = fold(submitted(2), failed(0, "second"), failed(1, "first"), ended(1, 0))
    assert failure_sentence(view) == (
        "rank 1 raised ValueError: first at cell line 3. Rank 0 raised ValueError: second at cell line 3. Variables "
        "are kept on all ranks."
    )
    assert [line for line in failure_lines("RankFailed", view) if line.startswith("\x1b[31m[")] == [
        "\x1b[31m[rank 1]\x1b[0m",
        "\x1b[31m[rank 0]\x1b[0m",
    ]


def test_a_rank_that_was_killed_is_said_to_have_lost_its_variables() -> None:
    view = fold(submitted(3), p.Lost(1, "was killed by SIGKILL"), left(0), left(2), ended(1))
    assert failure_sentence(view) == (
        "rank 1 was killed by SIGKILL. Ranks 0,2 were interrupted in all_reduce at cell line 4. Rank 1 is started "
        "again without variables; ranks 0,2 keep their own."
    )
    assert failure_lines("RankFailed", view) == [f"\x1b[31mRankFailed\x1b[0m: {failure_sentence(view)}"]


def test_a_lost_rank_is_told_before_the_exceptions_that_it_caused() -> None:
    reset = failed(0, "connection reset by peer", 4, "RuntimeError")
    view = fold(submitted(2), reset, p.Lost(1, "crashed with SIGSEGV"), ended(1, 0))
    assert failure_sentence(view) == (
        "rank 1 crashed with SIGSEGV. Rank 0 raised RuntimeError: connection reset by peer at cell line 4. Rank 1 is "
        "started again without variables; rank 0 keeps its own."
    )


def test_ranks_that_only_lost_the_connection_to_a_lost_one_are_told_in_one_sentence() -> None:
    def reset(rank: int, line: int = 4, call: str = "barrier") -> p.Failed:
        noise = f"[pair.cc:553] Connection closed by peer [127.0.0.1]:{rank}. GLHF!"
        return p.Failed(
            rank, RUN, 1.0, p.Health(), p.RemoteError("RuntimeError", noise, ["tb"], line, "communication", call)
        )

    view = fold(submitted(4), reset(3), p.Lost(1, "was killed by SIGKILL"), reset(2), reset(0), ended(1, 3, 2, 0))
    assert failure_sentence(view) == (
        "rank 1 was killed by SIGKILL. Ranks 0,2-3 lost their connection in barrier at cell line 4. Rank 1 is started "
        "again without variables; ranks 0,2-3 keep their own."
    )
    view = fold(submitted(2), failed(1), reset(0, 0, ""), ended(1, 0))
    assert "Rank 0 lost its connection. Variables" in failure_sentence(view)
    assert "Connection closed" in failure_sentence(fold(submitted(1), reset(0), ended(0)))


def test_when_every_rank_is_lost_nothing_is_said_to_be_kept() -> None:
    view = fold(submitted(2), p.Lost(0, "was killed by SIGKILL"), p.Lost(1, "was killed by SIGKILL"), ended(0, 1))
    assert failure_sentence(view).endswith("Ranks 0-1 are started again without variables.")
    assert "keep" not in failure_sentence(view)


def test_a_rank_that_did_not_leave_is_told_of_though_it_is_not_the_cause() -> None:
    view = fold(submitted(2), failed(0), p.Lost(1, "did not leave the cell within 1.5 s and was killed"), ended(0))
    assert failure_sentence(view) == (
        "rank 0 raised ValueError: boom at cell line 3. Rank 1 is started again without variables; rank 0 keeps its "
        "own."
    )


def test_a_long_message_is_cut_to_its_first_line() -> None:
    view = fold(submitted(1), failed(0, "\n first \nsecond", 0), ended(0))
    assert failure_sentence(view) == "rank 0 raised ValueError: first. Variables are kept on all ranks."
    view = fold(submitted(1), failed(0, "", 0), ended(0))
    assert failure_sentence(view) == "rank 0 raised ValueError. Variables are kept on all ranks."
    view = fold(submitted(1), failed(0, "x" * 5000), ended(0))
    assert len(failure_sentence(view)) < 400


def test_a_run_that_was_refused_is_told_in_the_words_of_the_refusal() -> None:
    view = RunView(RUN, "failed", refusal="the session is closing")
    assert failure_sentence(view) == "the session is closing"
    assert failure_sentence(fold(ended(3))) == "the run ended without a word from its ranks"


def test_colours_can_be_taken_out_of_a_text() -> None:
    assert strip_colours("\x1b[31mred\x1b[0m \x1b[1;38;5;9mbold\x1b[m plain") == "red bold plain"


# ---- status ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (139, "2:19"),
        (6067, "1:41:07"),
    ],
)
def test_times_read_as_people_say_them(seconds: float, words: str) -> None:
    assert seconds_in_words(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(9.96, "10 s"), (59.7, "1:00"), (3599.9, "59:59")])
def test_a_time_is_not_rounded_into_the_next_unit(seconds: float, words: str) -> None:
    assert seconds_in_words(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(999, "999 bytes"), (1000, "1 kB"), (180_000_000, "180 MB"), (2_500_000_000, "2.5 GB")],
)
def test_sizes_read_as_people_say_them(count: int, words: str) -> None:
    assert bytes_in_words(count) == words


def status(*ranks: p.RankStatus, **changes: Any) -> p.Status:
    plain = p.Status("r", "train", "ready", 1, list(ranks), None, [], 1, 12.0, 1800.0, None)
    return msgspec.structs.replace(plain, **changes)


def test_ranks_that_agree_share_a_line() -> None:
    ranks = [p.RankStatus(number, number // 2, "idle", 100 + number, None, "cpu") for number in range(4)]
    assert status_lines(status(*ranks), "2 × 2 ranks") == [
        "train: ready, 4 ranks, up 12 s, 1 kernel attached, lease of 30:00 not begun",
        "  shape 2 × 2 ranks",
        "  ranks 0-1 on node 0: idle on cpu, pid 100, 101",
        "  ranks 2-3 on node 1: idle on cpu, pid 102, 103",
    ]


def test_a_rank_that_is_lost_has_no_process_and_no_device() -> None:
    ranks = [p.RankStatus(0, 0, "running", 100, "a", "cuda:0"), p.RankStatus(1, 0, "lost", 0, None, "")]
    told = status(*ranks, state="running", clients=0, lease_left=90.0, run="a", queued=["b", "c"])
    assert status_lines(told, "1 × 2 ranks") == [
        "train: running, 2 ranks, up 12 s, 0 kernels attached, lease runs out in 1:30",
        "  shape 1 × 2 ranks",
        "  rank 0 on node 0: running on cuda:0, pid 100",
        "  rank 1 on node 0: lost",
        "  run a goes on, 2 more wait",
    ]


def test_a_session_of_one_rank_speaks_of_one_rank() -> None:
    assert status_lines(status(p.RankStatus(0, 0, "idle", 1, None, "cpu")), "1 × 1")[0].startswith(
        "train: ready, 1 rank,"
    )


def test_the_processes_of_many_ranks_are_not_listed() -> None:
    ranks = [p.RankStatus(number, 0, "idle", 100 + number, None, "cpu") for number in range(9)]
    assert status_lines(status(*ranks), "1 × 9")[2] == "  ranks 0-8 on node 0: idle on cpu"


# ---- the console's allowance -----------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_goes_at_once_and_then_no_more_than_the_rate() -> None:
    clock = Clock()
    allowance = Allowance(1000, 100, clock)
    assert allowance.take(600)
    assert allowance.take(400)
    assert not allowance.take(1)
    clock.now = 1.0
    assert not allowance.take(101)
    assert allowance.take(100)
    assert not allowance.take(1)


def test_an_allowance_that_is_not_used_does_not_grow_past_the_burst() -> None:
    clock = Clock()
    allowance = Allowance(1000, 100, clock)
    clock.now = 1e6
    assert allowance.take(1000)
    assert not allowance.take(1)


def test_what_is_refused_is_not_counted() -> None:
    clock = Clock()
    allowance = Allowance(1000, 100, clock)
    assert allowance.take(950)
    assert not any(allowance.take(51) for _ in range(10))
    assert allowance.take(50)


def test_more_than_a_burst_goes_when_the_allowance_is_full_and_is_paid_for_after() -> None:
    clock = Clock()
    allowance = Allowance(1000, 100, clock)
    assert allowance.take(3000)
    clock.now = 20.0
    assert not allowance.take(1)
    clock.now = 21.0
    assert allowance.take(100)


def test_a_flood_stays_within_what_a_jupyter_server_lets_through() -> None:
    clock = Clock()
    allowance = Allowance(clock=clock)
    sent = [(clock.now, 0)]
    for turn in range(1000):
        clock.now = turn * 0.02
        while allowance.take(PIECE):
            sent.append((clock.now, PIECE))
    for at, _ in sent:
        window = sum(size for moment, size in sent if at <= moment < at + 3.0)
        assert window <= BURST_BYTES + 3 * RATE_BYTES < 3_000_000  # what it averages over 3 s, at 1 MB/s
    assert sum(size for _, size in sent) >= 0.95 * 20 * RATE_BYTES


# ---- pieces ----------------------------------------------------------------------------------------------------------


def test_a_small_text_and_a_rich_output_go_in_one_piece() -> None:
    assert pieces(("stdout", "x" * PIECE)) == [("stdout", "x" * PIECE)]
    display = p.Display(0, RUN, "display", {"image/png": "x" * 3 * PIECE}, {})
    assert pieces(display) == [display]


@settings(deadline=None, max_examples=20)
@given(some.lists(some.integers(0, PIECE), min_size=1, max_size=12), some.booleans())
def test_pieces_end_where_lines_end_and_nothing_is_missing(widths: list[int], whole: bool) -> None:
    text = "\n".join("x" * width for width in widths) + "\n" * whole
    found = [part[1] for part in pieces(("stderr", text)) if isinstance(part, tuple)]
    assert "".join(found) == text
    assert all(piece.endswith("\n") for piece in found[:-1])
    assert all(len(piece) <= 2 * PIECE + 1 for piece in found)


# ---- what waits when a run is over -----------------------------------------------------------------------------------


def test_those_who_wrote_little_are_shown_and_the_one_who_flooded_is_not() -> None:
    flood = "".join(f"[rank 2] {number:06}\n" for number in range(REST_BYTES))
    display = p.Display(0, RUN, "display", {"image/png": "x" * 3 * PIECE}, {})
    waiting: list[Part] = [
        ("stdout", f"[rank 0] first\n{flood}[rank 0] second\n"),
        display,
        ("stderr", f"[rank 1] a warning\n{flood}… one of ours\n"),
        ("value", "[rank 2] 0.95\n"),
    ]
    rest, missing = fair_rest(waiting)
    assert list(rest) == [
        ("stdout", "[rank 0] first\n[rank 0] second\n"),
        display,
        ("stderr", "[rank 1] a warning\n… one of ours\n"),
        ("value", "[rank 2] 0.95\n"),
    ]
    assert missing == 2 * len(flood)


def test_where_all_wrote_much_nothing_of_any_is_shown_and_where_all_is_little_everything() -> None:
    flood: list[Part] = [("stdout", f"[rank {rank}] {'x' * 100}\n" * REST_BYTES) for rank in range(3)]
    assert fair_rest(flood)[0] == deque()
    little: list[Part] = [("stdout", "[ranks 0-8] equal\n[rank 3] more\n")]
    assert fair_rest(little) == (deque(little), 0)


def test_what_is_kept_for_the_end_is_there_after_a_flood() -> None:
    clock = Clock()
    allowance = Allowance(1000, 100, clock)
    while allowance.take(100, keep=300):
        pass
    assert allowance.take(300)
    assert not allowance.take(1)
