"""Who may put how much into a notebook, decided without a process."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as some

from modal_magic.gateway.flow import Flow

LINE = f"{'x' * 99}\n"


def shown(flow: Flow, rank: int, lines: int) -> int:
    """How many of so many lines of 100 bytes are shown."""
    return sum(bool(flow.admit(rank, LINE)[0]) for _ in range(lines))


def test_a_rank_that_floods_leaves_the_others_their_share() -> None:
    flow = Flow(limit=80_000, ranks=4, began=0.0)
    assert shown(flow, 2, 10_000) == 500  # half of the limit, and its own eighth
    assert [shown(flow, rank, 100) for rank in (0, 1, 3)] == [100, 100, 100]
    assert flow.cut == {2}
    assert flow.withheld == 950_000


def test_ranks_that_write_alike_fill_the_limit_together() -> None:
    flow = Flow(limit=80_000, ranks=4, began=0.0)
    assert sum(shown(flow, rank, 1) for _ in range(1000) for rank in range(4)) == 800
    assert flow.cut == {0, 1, 2, 3}


def test_the_cut_is_where_a_line_begins_and_for_good() -> None:
    flow = Flow(limit=250, ranks=1, began=0.0)
    assert flow.admit(0, 3 * LINE) == (2 * LINE, LINE)
    assert flow.admit(0, "a") == ("", "a")
    assert flow.withheld == 101


def test_without_a_limit_everything_is_shown() -> None:
    flow = Flow(limit=None, ranks=4, began=0.0)
    assert flow.admit(1, LINE * 1000) == (LINE * 1000, "")


@given(
    some.integers(0, 500),
    some.lists(some.tuples(some.integers(0, 2), some.text("aé\n", max_size=40)), max_size=60),
)
def test_nothing_is_lost_and_the_limit_holds(limit: int, written: list[tuple[int, str]]) -> None:
    flow = Flow(limit, ranks=3, began=0.0)
    sent = 0
    for rank, text in written:
        head, tail = flow.admit(rank, text)
        assert head + tail == text
        sent += len(head.encode())
    assert sent <= limit
    assert sent + flow.withheld == sum(len(text.encode()) for _, text in written)
