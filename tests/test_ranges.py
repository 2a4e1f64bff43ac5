"""Sets of ranks as text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from modal_magic.ranges import format_ranks, name_ranks, parse_ranks

rank_sets = some.sets(some.integers(0, 2000), min_size=1, max_size=40)


@given(rank_sets)
def test_ranks_survive_being_written_and_read(ranks: set[int]) -> None:
    assert parse_ranks(format_ranks(ranks)) == tuple(sorted(ranks))


@given(rank_sets)
def test_no_two_written_ranges_touch(ranks: set[int]) -> None:
    spans = [[int(number) for number in part.split("-")] for part in format_ranks(ranks).split(",")]
    assert all(later[0] > earlier[-1] + 1 for earlier, later in pairwise(spans))


@given(some.text(max_size=20))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        ranks = parse_ranks(text)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert ranks == tuple(sorted(set(ranks)))


def test_order_spaces_and_overlap_do_not_matter() -> None:
    assert parse_ranks(" 3, 0-1 ,1-2") == (0, 1, 2, 3)


def test_all_needs_the_number_of_ranks() -> None:
    assert parse_ranks("all", 3) == (0, 1, 2)
    with pytest.raises(ValueError, match="names no ranks"):
        parse_ranks("all")


@pytest.mark.parametrize(
    ("text", "part"),
    [("", "names no ranks"), ("0,", "names no ranks"), ("-1", "names no ranks"), ("3-1", "write 1-3"), ("4", "0-3")],
)
def test_what_names_no_rank_of_the_session_is_refused_with_advice(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        parse_ranks(text, 4)


def test_one_rank_is_named_in_the_singular() -> None:
    assert name_ranks([2]) == "rank 2"
    assert name_ranks([5, 0, 1, 2, 2]) == "ranks 0-2,5"


def test_a_session_of_one_rank_is_said_to_have_one() -> None:
    with pytest.raises(ValueError, match=r"there is no rank 1: the session has rank 0$"):
        parse_ranks("1", 1)
