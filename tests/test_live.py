"""What changes too often for the log: courses stay small, the newest word wins, and a newcomer misses nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_magic import protocol as p
from modal_magic.live import BARS, Gauges, LiveTable
from modal_magic.series import POINTS, Series


def bar(number: int, current: float, *, rank: int = 0, run: str = "a", ended: bool = False) -> p.Progress:
    return p.Progress(rank, run, number, "", current, 10.0, ended)


def test_of_loops_that_never_end_the_newest_are_kept() -> None:
    gauges = Gauges()
    for number in range(3 * BARS):
        gauges.take(bar(number, 1.0))
    assert list(gauges.bars) == list(range(2 * BARS, 3 * BARS))


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=1000))
def test_a_course_keeps_its_first_and_its_newest_value_in_a_bounded_number_of_points(values: list[float]) -> None:
    series = Series()
    for step, value in enumerate(values):
        series.add(step, value)
    points = series.points()
    assert len(points) <= POINTS + 1
    assert points[0] == (0, values[0])
    assert points[-1] == (len(values) - 1, values[-1])
    assert all(values[int(step)] == value for step, value in points)
    assert [step for step, _ in points] == sorted({step for step, _ in points})


def test_a_long_course_is_covered_evenly() -> None:
    series = Series()
    for step in range(10_000):
        series.add(step, 0.0)
    steps = [step for step, _ in series.points()]
    gaps = {after - before for before, after in pairwise(steps[:-1])}
    assert len(gaps) == 1
    assert len(steps) > POINTS / 2


def test_a_loop_that_is_over_is_shown_until_another_begins() -> None:
    gauges = Gauges()
    gauges.take(bar(1, 10, ended=True))
    assert list(gauges.bars) == [1]
    gauges.take(bar(2, 0))
    assert list(gauges.bars) == [2]


def test_of_a_bar_only_the_newest_place_is_news() -> None:
    table = LiveTable()
    for current in range(5):
        table.take(bar(1, current))
    table.take(bar(1, 3, rank=1))
    assert table.news() == [bar(1, 4), bar(1, 3, rank=1)]
    assert table.news() == []


def test_another_run_begins_an_empty_table() -> None:
    table = LiveTable()
    table.take(bar(1, 5))
    table.take(p.Metric(0, "a", "loss", 1.0, 0.0))
    table.take(bar(7, 0, run="b"))
    assert table.all() == [bar(7, 0, run="b")]


@pytest.mark.parametrize("count", [1, POINTS, POINTS + 1, 1000])
def test_a_newcomer_draws_what_one_draws_that_was_always_there(count: int) -> None:
    table, always = LiveTable(), Gauges()
    for step in range(count):
        event = p.Metric(0, "a", "loss", 1 / (step + 1), float(step))
        table.take(event)
        always.take(event)
    table.take(bar(1, 3))
    always.take(bar(1, 3))
    newcomer = Gauges()
    for word in p.decode_reply(p.encode(p.Live(table.all()))).events:
        newcomer.take(word)
    assert newcomer.bars == always.bars
    assert newcomer.curves["loss"].points() == always.curves["loss"].points()
