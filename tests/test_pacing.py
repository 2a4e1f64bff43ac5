"""What a console lets through: a burst, a rate, pieces, and what is shown of a flood when a run is over."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as some

from modal_magic import protocol as p
from modal_magic.view.pacing import BURST_BYTES, PIECE, RATE_BYTES, REST_BYTES, Allowance, fair_rest, pieces
from modal_magic.view.text import Part

RUN = "a"


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
