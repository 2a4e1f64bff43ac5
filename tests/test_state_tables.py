"""The tables of the machine: what each state of a rank and a session may become, and what is refused."""

from __future__ import annotations

import pytest

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.state import RankState as R
from modal_magic.state import SessionState as S
from tests.support.machine import EVENTS, Rig


def machine_with_rank_in(state: R) -> s.Machine:
    """A machine of two ranks whose rank 0 is in a state and owes the end of run `a`."""
    machine = Rig(1, 2).ready().machine
    machine.ranks[0].state = state
    machine.active = s.ActiveRun("a", (0, 1), {0, 1})
    machine.state = S.RUNNING
    return machine


def test_every_state_of_a_rank_can_be_reached() -> None:
    reached = {R.LAUNCHING}
    while more := {after for (before, _), after in s.RANK_TABLE.items() if before in reached} - reached:
        reached |= more
    assert reached == set(R)


def test_every_state_of_a_session_can_be_reached_and_left_for_closed() -> None:
    reached = {S.LAUNCHING}
    while more := {after for before in reached for after in s.SESSION_TABLE[before]} - reached:
        reached |= more
    assert reached == set(s.SESSION_TABLE) == set(S)
    assert all(S.CLOSED in after for before, after in s.SESSION_TABLE.items() if before is not S.CLOSED)
    assert s.SESSION_TABLE[S.CLOSED] == frozenset()


def test_every_rank_can_be_lost_and_a_lost_one_can_only_be_launched_or_come_back_with_its_node() -> None:
    assert all(s.RANK_TABLE[state, p.Lost] is R.LOST for state in R if state is not R.LOST)
    assert [kind for state, kind in s.RANK_TABLE if state is R.LOST] == [p.Launch, p.Returned]


def test_free_and_busy_ranks_are_told_apart() -> None:
    assert not s.FREE & s.BUSY
    assert all(((state, p.Submitted) in s.RANK_TABLE) is (state in s.FREE) for state in R)


@pytest.mark.parametrize("state", R)
def test_an_event_is_taken_where_the_table_allows_it_and_else_refused_with_nothing_changed(state: R) -> None:
    for kind, event in EVENTS.items():
        machine = machine_with_rank_in(state)
        if (state, kind) in s.RANK_TABLE:
            machine.handle(event)
            assert machine.ranks[0].state is s.RANK_TABLE[state, kind]
        else:
            with pytest.raises(s.UnexpectedEvent, match=f"rank 0 is {state} and cannot take {kind.__name__}; before: "):
                machine.handle(event)
            assert machine.ranks[0].state is state
            assert (machine.state, machine.generation) == (S.RUNNING, 1)


def test_an_unexpected_event_tells_the_last_events_of_its_rank() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a", [0])
    rig.play()
    rig.finish("a")
    with pytest.raises(s.UnexpectedEvent, match=r"before: Launched, Grouped, Submitted, Started, Finished$"):
        rig.feed(p.Launched(0, 7))
    with pytest.raises(s.UnexpectedEvent, match=r"rank 1 is idle and cannot take Launched; before: Launched, Grouped$"):
        rig.feed(p.Launched(1, 7))
    with pytest.raises(s.UnexpectedEvent, match=r"before: nothing$"):
        Rig().feed(p.Grouped(0, 1, "cpu", 0.1))


def test_what_had_changed_before_an_unexpected_event_is_done_all_the_same() -> None:
    rig = Rig(2, 1).ready()
    rig.feed(s.NodeGone(1, "stopped answering", silent=True))
    twice = (p.Alive(1, 1001, True, ""),) * 2
    with pytest.raises(s.UnexpectedEvent, match="cannot take Returned") as caught:
        rig.feed(s.NodeJoined(1, "10.0.0.1", 29500, 0, 8, workers=twice))
    assert s.Log(p.Returned(1)) in caught.value.effects
    assert s.SetTimer("return of node 1", None) in caught.value.effects
