"""Which event belongs to which run, as one client has them, without a process."""

from __future__ import annotations

import math
import signal
import threading
from typing import cast

import pytest

from modal_magic import Session
from modal_magic import protocol as p
from modal_magic.errors import SessionClosed
from modal_magic.sessions.run import UNREAD, Run
from modal_magic.sessions.runs import LATE_BYTES, SessionRuns
from modal_magic.view.console import _interrupts_for


def run(name: str) -> Run:
    """A run of a session that nobody asks for."""
    return Run(cast(Session, None), name)


def test_of_what_a_cell_writes_long_after_its_end_a_bounded_part_waits_for_the_next_cell() -> None:
    runs = SessionRuns()
    runs.begin(run("first"))
    runs.take(p.Record(1, 1.0, p.RunEnded("first", "done", [], 0.1)))
    line = "x" * 999 + "\n"
    for number in range(3 * LATE_BYTES // 1000):
        runs.take(p.Record(2 + number, 1.0, p.Output(0, "first", "stdout", line)))
    following = run("second")
    runs.begin(following)
    *texts, notice = following.events(0.0)
    assert texts == [p.Output(0, "first", "stdout", line)] * (LATE_BYTES // 1000)
    assert notice == p.Notice("… 2 MB more that earlier cells have written since are in the log alone")
    last = run("third")
    runs.begin(last)
    assert last.events(0.0) == []


def test_of_a_run_those_names_are_completed_that_users_need() -> None:
    run = Run.__new__(Run)
    assert "wait" in dir(run) and "take" not in dir(run)
    assert {name for name in dir(run) if not hasattr(Run, name)} == {"session"}


class Gone:
    """A session that has ended."""

    def interrupt_run(self, run: Run) -> None:
        raise SessionClosed("it ended")


def test_the_handler_of_the_kernel_is_back_also_where_the_session_ended_as_the_interrupt_came() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SessionClosed), _interrupts_for(Run(cast(Session, Gone()), "run")):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_nobody_follows_does_not_grow_with_what_is_told_of_its_bars() -> None:
    runs, going = SessionRuns(), run("going")
    runs.begin(going)
    for step in range(50):
        runs.take_live([p.Progress(0, "going", bar, "bar", step, 50, False) for bar in range(90)])
        runs.taken()
    assert going._events.qsize() < 50
    runs.take(p.Record(1, 1.0, p.Output(0, "going", "stdout", "text\n")))
    runs.taken()
    told = going.events(0.0)
    assert len(told) == UNREAD + 1 and told[-1] == p.Output(0, "going", "stdout", "text\n")
    assert {bar.current for bar in going.ranks[0].gauges.bars.values()} == {49}
    runs.take_live([p.Metric(0, "going", "loss", 0.5, 1)])
    runs.taken()
    assert going.events(0.0) == [p.Metric(0, "going", "loss", 0.5, 1)]


class Timed(threading.Event):
    """An event that knows how long it was waited for at once, and comes after so many waits."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.waits, self.longest = waits, 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.longest = max(self.longest, math.inf if timeout is None else timeout)
        self.waits -= 1
        return self.waits < 0


def test_no_wait_is_longer_than_an_interrupt_may_take_where_locks_hear_none() -> None:
    going = run("going")
    going._over = over = Timed(waits=100)
    assert going.wait() is going and over.longest <= 1.0
    going._over = over = Timed(waits=10**6)
    with pytest.raises(TimeoutError, match=r"the run still goes on after 0\.01 s"):
        going.wait(0.01)
    assert over.longest <= 0.01
