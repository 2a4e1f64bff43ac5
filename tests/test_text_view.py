"""A run as pages of text: lines with their ranks, and equal lines of many ranks merged."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as some

from modal_magic import protocol as p
from modal_magic.ranges import parse_ranks
from modal_magic.view.text import MERGE_FROM, Page, TextView

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
