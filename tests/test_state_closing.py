"""The machine and the end of a session: nodes leave, runs end, and nothing is said after it."""

from __future__ import annotations

import pytest

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.state import RankState as R
from modal_magic.state import SessionState as S
from tests.support.machine import EVENTS, Rig


def test_a_stopped_session_is_closed_once_every_node_has_left() -> None:
    rig = Rig(2, 1).ready()
    effects = rig.ask(p.Stop("it was stopped"))
    assert [node for node, _ in rig.told(p.Shutdown, effects)] == [0, 1]
    assert rig.timers["closing"] == s.CLOSING_SECONDS
    assert rig.logged(p.SessionChanged, effects) == [p.SessionChanged("closing", 1, "it was stopped")]
    rig.leaving.clear()
    assert rig.feed(s.NodeGone(0, "stopped")) == []
    assert rig.feed(s.NodeGone(1, "stopped"))[-1] == s.End("it was stopped")


def test_a_stopped_session_does_not_wait_for_ever_for_its_nodes() -> None:
    rig = Rig(2, 1).ready()
    rig.ask(p.Stop("it was stopped"))
    rig.feed(s.NodeGone(0, "stopped"))
    assert rig.fire("closing")[-1] == s.End("it was stopped; not every node said goodbye")
    assert rig.machine.state is S.CLOSED


def test_a_session_without_nodes_is_closed_at_once() -> None:
    rig = Rig(2, 1)
    assert rig.ask(p.Stop("it was stopped"))[-1] == s.End("it was stopped")


def test_stopping_twice_is_stopping_once() -> None:
    rig = Rig(1, 2).ready()
    rig.ask(p.Stop("it was stopped"))
    assert rig.ask(p.Stop("it was stopped again")) == []


def test_a_node_that_joins_a_closing_session_is_sent_away() -> None:
    rig = Rig(2, 1)
    rig.join(0)
    rig.ask(p.Stop("it was stopped"))
    rig.join(1)
    assert [node for node, _ in rig.told(p.Shutdown)] == [0, 1]


def test_stopping_ends_every_run() -> None:
    rig = Rig(1, 2).ready()
    for run in ("a", "b", "c"):
        rig.run(run)
    rig.play()
    rig.ask(p.Stop("it was stopped"))
    rig.play()
    assert rig.ends == [("a", "interrupted", []), ("b", "interrupted", []), ("c", "interrupted", [])]


@pytest.mark.parametrize("kind", EVENTS)
def test_what_ranks_still_say_while_the_session_closes_is_no_surprise(kind: type[p.Message]) -> None:
    rig = Rig(1, 2)
    rig.join()
    rig.feed(p.Launched(0, 1))
    if kind is p.Launched:
        rig.feed(p.Launched(1, 1))
        rig.machine.ranks[0].state = R.LAUNCHING
    rig.ask(p.Stop("it was stopped"))
    for _ in range(s.ATTEMPTS if kind is p.GroupFailed else 1):
        assert rig.feed(EVENTS[kind]) == []


def test_after_its_end_a_session_says_nothing_more() -> None:
    rig = Rig(2, 1).ready()
    rig.ask(p.Stop("it was stopped"))
    rig.fire("closing")
    late: list[s.Stimulus] = [
        s.NodeGone(1, "stopped"), s.NodeGone(0, "stopped"), s.NodeJoined(0, "10.0.0.0", 1, 0, 1), s.Attendance(0),
        s.Fired("group"), s.Fired("closing"), s.Fired("lease"),
    ]  # fmt: skip
    assert [rig.feed(stimulus) for stimulus in late] == [[]] * len(late)
