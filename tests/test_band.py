"""A metric of many ranks is drawn as a band that holds every course."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from modal_magic.view.band import POINTS, band

COURSES = st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200), min_size=1, max_size=6)


@given(COURSES)
def test_a_band_holds_what_every_rank_had_reported_at_its_steps(values: list[list[float]]) -> None:
    known = [[(float(step), value) for step, value in enumerate(course)] for course in values]
    made = band(known)
    assert len(made.steps) <= POINTS + 1
    assert made.steps[-1] == max(len(course) for course in values) - 1
    for step, low, mean, high in zip(made.steps, made.low, made.mean, made.high, strict=True):
        there = [course[min(int(step), len(course) - 1)] for course in values]
        assert (low, high) == (min(there), max(there))
        assert low - 1e-6 <= mean <= high + 1e-6


def test_where_no_rank_has_told_a_number_there_is_a_gap() -> None:
    made = band([[(0.0, math.nan), (1.0, 2.0)]])
    assert math.isnan(made.low[0])
    assert (made.steps, made.high[1]) == ((0.0, 1.0), 2.0)
    assert band([]).steps == ()
