"""From chunks to whole lines, each of one rank."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from modal_magic import protocol as p
from modal_magic.lines import LINE_CHARACTERS, LineAssembler, read_lines

chunks = some.text(alphabet="ab\n", max_size=12)
wild = some.text(alphabet="ab\r\n", max_size=12)


def fed(*texts: str) -> list[str]:
    """The lines that chunks of one rank make, the unfinished one last."""
    assembler = LineAssembler()
    lines = [line for text in texts for line in assembler.feed(0, "stdout", text)]
    return lines + [text for _, _, text in assembler.flush()]


def said(rank: int, text: str, run: str = "a", stream: p.Stream = "stdout") -> p.Output:
    return p.Output(rank, run, stream, text)


# ---- assembling ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(some.lists(some.tuples(some.integers(0, 2), some.sampled_from(["stdout", "stderr"]), chunks), max_size=30))
def test_each_rank_and_stream_has_its_own_lines_however_chunks_are_mixed(
    given_chunks: list[tuple[int, p.Stream, str]],
) -> None:
    assembler = LineAssembler()
    lines: dict[tuple[int, str], list[str]] = {}
    texts: dict[tuple[int, str], str] = {}
    for rank, stream, text in given_chunks:
        texts[rank, stream] = texts.get((rank, stream), "") + text
        lines.setdefault((rank, stream), []).extend(assembler.feed(rank, stream, text))
    for rank, stream, text in assembler.flush():
        lines[rank, stream].append(text)
    for key, text in texts.items():
        whole = text.split("\n")
        assert lines[key] == (whole if whole[-1] else whole[:-1])


@settings(deadline=None)
@given(some.lists(wild, max_size=12))
def test_where_a_stream_is_cut_makes_no_difference(texts: list[str]) -> None:
    assert fed(*texts) == fed("".join(texts)) == fed(*"".join(texts))


def test_a_line_is_handed_out_when_it_ends_and_not_before() -> None:
    assembler = LineAssembler()
    assert assembler.feed(0, "stdout", "lo") == []
    assert assembler.feed(1, "stdout", "other\n") == ["other"]
    assert assembler.feed(0, "stdout", "ss 1\nlo") == ["loss 1"]
    assert assembler.feed(0, "stderr", "warning\n") == ["warning"]
    assert assembler.flush() == [(0, "stdout", "lo")]
    assert assembler.flush() == []


def test_empty_lines_are_lines() -> None:
    assert fed("\n\na\n\n") == ["", "", "a", ""]


@pytest.mark.parametrize(
    ("texts", "lines"),
    [
        (["a\r\n", "b\r\n"], ["a", "b"]),
        (["a\r", "\nb\r", "\n"], ["a", "b"]),
        (["10%\r50%\r100%\n"], ["100%"]),
        (["10%", "\r50%", "\r100%", "\n"], ["100%"]),
        (["10%\r", "50%\r", "100%\r", "\n"], ["100%"]),
        (["\r10%", "\r20%"], ["20%"]),
        (["10%\r"], ["10%"]),
        (["a\n\rb\n"], ["a", "b"]),
        (["done\r\n", "\rnext"], ["done", "next"]),
        (["a\r\r\n", "b\r", "\r", "\n"], ["a", "b"]),  # what a terminal makes of the `\r\n` of curl and others
    ],
)
def test_of_a_line_that_is_written_over_the_last_state_counts(texts: list[str], lines: list[str]) -> None:
    assert fed(*texts) == lines


def test_a_bar_that_runs_for_days_takes_no_memory() -> None:
    assembler = LineAssembler()
    for number in range(20_000):
        assert assembler.feed(0, "stderr", f"\r{number:100}") == []
    assert sum(len(rest) for rest in assembler._rest.values()) <= 202
    assert assembler.feed(0, "stderr", "\n") == [f"{19_999:100}"]


def test_a_bar_that_has_cleared_itself_leaves_no_line() -> None:
    assert fed("\r 50%", "\r     \r") == []
    assert fed("\r 50%", "\r     \r", "next\n") == ["next"]
    assert fed("   ") == ["   "]


def test_a_line_that_is_longer_than_any_notebook_shows_comes_in_pieces() -> None:
    assembler = LineAssembler()
    pieces: list[str] = []
    for _ in range(25):
        pieces += assembler.feed(0, "stdout", "x" * 100_000)
    assert [len(piece) > LINE_CHARACTERS for piece in pieces] == [True, True]
    pieces += assembler.feed(0, "stdout", "end\n")
    assert "".join(pieces) == "x" * 2_500_000 + "end"


# ---- reading a log ---------------------------------------------------------------------------------------------------

LOG: list[p.Event] = [
    p.Submitted("a", [0, 1], 1, "pass"),
    said(0, "one\ntw"),
    said(1, "eins\n"),
    said(0, "warning\n", stream="stderr"),
    said(0, "o\nthree"),
    p.RunEnded("a", "done", [], 1.0),
    p.Submitted("b", [0], 2, "pass"),
    said(0, "four\n", "b"),
    said(1, "vier", "b"),
]


def test_a_run_is_read_in_the_order_in_which_its_lines_ended() -> None:
    lines, omitted = read_lines(LOG, "a", None, None)
    assert lines == [
        (0, "stdout", "one"),
        (1, "stdout", "eins"),
        (0, "stderr", "warning"),
        (0, "stdout", "two"),
        (0, "stdout", "three"),
    ]
    assert omitted == 0


def test_lines_of_two_runs_are_not_put_together() -> None:
    lines, _ = read_lines(LOG, None, [0], None)
    assert [text for _, _, text in lines] == ["one", "warning", "two", "three", "four"]


def test_only_the_ranks_that_are_asked_for_are_read() -> None:
    assert read_lines(LOG, None, [1], None) == ([(1, "stdout", "eins"), (1, "stdout", "vier")], 0)
    assert read_lines(LOG, "a", [], None) == ([], 0)
    assert read_lines(LOG, "c", None, None) == ([], 0)


def test_the_last_lines_are_those_of_each_rank() -> None:
    assert read_lines(LOG, "a", None, 1) == ([(1, "stdout", "eins"), (0, "stdout", "three")], 3)
    assert read_lines(LOG, "a", None, 2) == (
        [(1, "stdout", "eins"), (0, "stdout", "two"), (0, "stdout", "three")],
        2,
    )
    assert read_lines(LOG, "a", None, 100)[1] == 0
    assert read_lines(LOG, "a", None, 0) == ([], 5)


def test_of_a_flood_the_newest_lines_are_kept_and_the_others_counted() -> None:
    flood = [said(0, f"{number:0999}\n" * 1000) for number in range(20)]
    lines, omitted = read_lines(flood, None, None, None)
    assert len(lines) + omitted == 20_000
    assert 7_000 <= len(lines) <= 8_000
    assert lines[-1] == (0, "stdout", f"{19:0999}")
    again, left_out = read_lines(flood, None, None, 5)
    assert (again, left_out) == (lines[-5:], 19_995)


def test_one_line_that_is_longer_than_a_reply_is_still_shown() -> None:
    lines, omitted = read_lines([said(0, "a\n"), said(0, "x" * 9_000_000 + "\n")], None, None, None)
    assert ([len(text) for _, _, text in lines], omitted) == ([9_000_000], 1)
