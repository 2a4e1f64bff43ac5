"""From chunks to whole lines, each of one rank."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from modal_magic import protocol as p
from modal_magic.lines import LINE_CHARACTERS, Line, LineAssembler, newest_lines, read_lines, utf8_size

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


# ---- the log of a run -----------------------------------------------------------------------------------------------

ERROR = p.RemoteError("ValueError", "no", ["Traceback", "Cell In[1], line 2\nValueError: no"], 2)
LOG: list[p.Event] = [
    said(0, "one\ntw"),
    said(1, "eins\n"),
    said(0, "warning\n", stream="stderr"),
    said(0, "o\nthree"),
    p.Display(1, "a", "display", {"text/plain": "Figure", "image/png": "…"}, {}),
    p.Display(1, "a", "clear", {}, {}),
    p.Display(1, "a", "display", {"image/png": "…"}, {}),
    p.Display(0, "a", "result", {"text/plain": "[1,\n 2]"}, {}),
    said(1, "zwei"),
    p.Failed(1, "a", 1.0, p.Health(), ERROR),
]


def test_a_run_is_read_as_lines_values_and_tracebacks_in_the_order_in_which_they_came() -> None:
    assert list(read_lines(LOG)) == [
        (0, "stdout", "one"),
        (1, "stdout", "eins"),
        (0, "stderr", "warning"),
        (0, "stdout", "two"),
        (1, "display", "Figure"),
        (0, "stdout", "three"),
        (0, "result", "[1,"),
        (0, "result", " 2]"),
        (1, "stdout", "zwei"),
        (1, "error", "Traceback"),
        (1, "error", "Cell In[1], line 2"),
        (1, "error", "ValueError: no"),
    ]


def lines(*texts: str, rank: int = 0) -> list[Line]:
    return [Line(rank, "stdout", text) for text in texts]


def test_the_last_lines_are_those_of_each_rank() -> None:
    given_lines = lines("a", "b") + lines("x", rank=1) + lines("c")
    assert newest_lines(given_lines, 1, 1000) == (lines("x", rank=1) + lines("c"), 0, 0)
    assert newest_lines(given_lines, 2, 1000) == (lines("b") + lines("x", rank=1) + lines("c"), 0, 0)
    assert newest_lines(given_lines, 100, 1000) == (given_lines, 0, 0)
    assert newest_lines([], 5, 1000) == ([], 0, 0)


def test_of_a_flood_the_newest_lines_are_kept_and_the_others_counted() -> None:
    flood = lines(*(f"{number:099}" for number in range(1000)))
    assert newest_lines(flood, None, 2000) == (flood[-20:], 980, 98_000)
    assert newest_lines(flood, 50, 2000) == (flood[-50:], 0, 0)


def test_values_and_tracebacks_before_a_flood_are_kept() -> None:
    told = [Line(1, "result", "4"), *lines("x" * 99), Line(0, "error", "ValueError"), *lines("y" * 99, "z" * 99)]
    assert newest_lines(told, None, 200) == ([told[0], told[2], told[3], told[4]], 1, 100)
    assert newest_lines(told, 1, 200)[0] == [told[0], told[4]]


def test_one_line_that_is_longer_than_all_that_is_shown_is_still_shown() -> None:
    assert newest_lines(lines("a", "x" * 5000), None, 1000) == (lines("x" * 5000), 1, 2)


def test_sizes_are_those_of_the_bytes() -> None:
    assert [utf8_size(text) for text in ("abc", "é", "🙂", "\ud800")] == [3, 2, 4, 3]
    assert newest_lines(lines(*"abc"), None, 24, beside=10) == (lines("b", "c"), 1, 2), "what stands beside counts"
    kept, cut, size = newest_lines(lines("🙂" * 10, "🙂" * 10), None, 50)
    assert (kept, cut, size) == (lines("🙂" * 10), 1, 41)
