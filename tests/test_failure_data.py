"""An exception of a rank as data: how deep it is, with all that it came from, and where it was."""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType

import pytest

from modal_magic.frameworks.collectives import Collective
from modal_magic.node.failure import CELL, collective_in, is_deep, where_interrupted

pytestmark = pytest.mark.patient


def raised(source: str) -> BaseException:
    """What a cell of this text raises."""
    with pytest.raises(BaseException) as caught:
        exec(compile(source, f"{CELL}3]", "exec"), {})
    return caught.value


def in_none(frames: Sequence[FrameType]) -> Collective:
    return Collective()


ENDLESS = "def f(n):\n    f(n + 1)\ntry:\n    f(0)\nexcept RecursionError as error:\n    "


@pytest.mark.parametrize("end", ["raise", "raise ValueError", "raise ValueError from error"])
def test_an_error_that_came_from_a_deep_one_is_deep(end: str) -> None:
    assert is_deep(raised(ENDLESS + end))
    assert not is_deep(raised("1 / 0"))


def test_a_chain_of_errors_that_is_a_ring_is_gone_round_once() -> None:
    error = raised("try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise KeyboardInterrupt")
    assert error.__context__ is not None
    error.__context__.__context__ = error
    assert where_interrupted(error, in_none) == "cell line 4"
    assert collective_in(error, in_none) == ""
    assert not is_deep(error)
