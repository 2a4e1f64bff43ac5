"""How long a session lives, by its machine: lease, idle time and longest life, and the warnings before."""

from __future__ import annotations

import pytest

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.state import SessionState as S
from modal_magic.state.lease import warning_seconds
from tests.support.machine import Rig

IDLE = {"idle", "idle warning"}


def reason(rig: Rig) -> str:
    return rig.logged(p.SessionChanged)[-1].reason


def notices(rig: Rig) -> list[str]:
    return [notice.text for notice in rig.logged(p.Notice)]


@pytest.mark.parametrize(("limit", "before"), [(1800.0, 300.0), (36000.0, 300.0), (60.0, 10.0), (3.0, 0.5)])
def test_a_warning_comes_five_minutes_before_or_a_sixth_of_what_is_shorter(limit: float, before: float) -> None:
    assert warning_seconds(limit) == before


def test_without_the_options_no_clock_but_the_lease_runs() -> None:
    rig = Rig(1, 2).ready()
    rig.feed(s.Attendance(0))
    assert rig.timers.keys() == {"lease"}


def test_idle_time_runs_between_runs_whether_a_kernel_is_attached_or_not() -> None:
    rig = Rig(1, 2, idle=1800.0).ready()
    assert rig.timers == {"idle": 1800.0, "idle warning": 1500.0}
    rig.run("a")
    assert not rig.timers.keys() & IDLE
    rig.play()
    rig.feed(s.Attendance(0))
    assert not rig.timers.keys() & IDLE
    rig.finish("a")
    assert rig.timers.keys() == {"idle", "idle warning", "lease"}
    rig.feed(s.Attendance(1))
    assert rig.timers.keys() == IDLE


def test_idle_time_does_not_run_before_the_ranks_are_up() -> None:
    rig = Rig(1, 2, idle=60.0)
    rig.feed(s.Attendance(1))
    assert rig.timers == {}


def test_a_run_that_waits_for_its_next_attempt_is_no_idle_time() -> None:
    rig = Rig(1, 2, idle=60.0).ready()
    rig.run("a", retries=p.Retries(1))
    rig.play()
    rig.lose(0)
    rig.fire("verdict")
    rig.play()
    rig.feed(s.Attendance(0))
    assert rig.timers.keys() == {"retry"}


def test_an_idle_session_warns_and_then_ends() -> None:
    rig = Rig(1, 2, idle=1800.0).ready()
    rig.fire("idle warning")
    assert notices(rig) == [
        "this session ends in 5min unless a cell runs: it had none for 25min (--idle 30min)",
    ]
    rig.fire("idle")
    assert rig.machine.state is S.CLOSING
    assert reason(rig) == "it had no run for 30min (--idle)"


def test_a_run_takes_the_warning_back() -> None:
    rig = Rig(1, 2, idle=1800.0).ready()
    rig.fire("idle warning")
    rig.run("a")
    rig.play()
    rig.finish("a")
    assert rig.timers == {"idle": 1800.0, "idle warning": 1500.0}


def test_the_longest_life_counts_from_the_start_and_nothing_stops_it() -> None:
    rig = Rig(1, 2, max_lifetime=7200.0)
    rig.feed(s.Attendance(1))
    assert rig.timers == {"lifetime": 7200.0, "lifetime warning": 6900.0}
    rig.ready()
    rig.run("a")
    rig.play()
    settings = [e for e in rig.effects if isinstance(e, s.SetTimer) and e.timer.startswith("lifetime")]
    assert len(settings) == 2
    rig.fire("lifetime warning")
    assert notices(rig) == [
        "this session ends in 5min, also while a cell runs: save what is to be kept (--max-lifetime 2h)",
    ]
    rig.fire("lifetime")
    assert rig.ends == [("a", "interrupted", [])]
    assert reason(rig) == "its longest time to live, 2h, is over (--max-lifetime)"


@pytest.mark.parametrize("timer", ["idle", "idle warning", "lifetime", "lifetime warning", "lease"])
def test_a_clock_that_comes_too_late_is_ignored(timer: str) -> None:
    rig = Rig(1, 2).ready()
    rig.feed(s.Fired(timer))
    assert rig.machine.state is S.READY
    assert notices(rig) == []


# ---- the lease -------------------------------------------------------------------------------------------------------


def test_the_lease_runs_while_nobody_is_attached_and_nothing_runs() -> None:
    rig = Rig(1, 2, lease=600.0).ready()
    assert "lease" not in rig.timers
    rig.feed(s.Attendance(0))
    assert rig.timers["lease"] == 600.0
    rig.feed(s.Attendance(2))
    assert "lease" not in rig.timers


def test_the_lease_does_not_run_during_a_run_and_begins_anew_after_it() -> None:
    rig = Rig(1, 2).ready()
    rig.run("a")
    rig.run("b")
    rig.feed(s.Attendance(0))
    assert "lease" not in rig.timers
    rig.play()
    rig.finish("a")
    rig.play()
    assert "lease" not in rig.timers
    rig.finish("b")
    assert rig.timers["lease"] == 600.0


def test_the_lease_is_set_once_however_much_happens() -> None:
    rig = Rig(1, 2)
    rig.feed(s.Attendance(0))
    rig.join()
    rig.play()
    settings = [effect for effect in rig.effects if isinstance(effect, s.SetTimer) and effect.timer == "lease"]
    assert settings == [s.SetTimer("lease", 600.0)]


def test_a_lease_that_is_over_ends_the_session() -> None:
    rig = Rig(1, 2).ready()
    rig.feed(s.Attendance(0))
    rig.fire("lease")
    assert rig.machine.state is S.CLOSING
    reason = rig.logged(p.SessionChanged)[-1].reason
    assert reason == "it had no kernel attached and no run for 10min (--lease)"


def test_a_lease_timer_that_comes_too_late_is_ignored() -> None:
    rig = Rig(1, 2).ready()
    rig.feed(s.Fired("lease"))
    assert rig.machine.state is S.READY


# ---- other limits for a session that is up ---------------------------------------------------------------------------


def test_limits_can_be_changed_while_a_session_is_up() -> None:
    rig = Rig(1, 2, idle=60.0, max_lifetime=3600.0).ready()
    rig.feed(s.Asked(b"c", p.SetLimits("q", {"lease": 7200.0, "idle": 1800.0, "max_lifetime": 5400.0}), 3000.0))
    assert rig.timers == {
        "idle": 1800.0,
        "idle warning": 1500.0,
        "lifetime": 2400.0,  # it counts from the start of the session
        "lifetime warning": 2100.0,
    }
    rig.feed(s.Attendance(0))
    assert rig.timers["lease"] == 7200.0
    rig.feed(s.Asked(b"c", p.SetLimits("q", {"idle": None, "lease": 600.0}), 3000.0))
    assert rig.timers == {"lifetime": 2400.0, "lifetime warning": 2100.0, "lease": 600.0}
    rig.fire("lease")
    assert reason(rig) == "it had no kernel attached and no run for 10min (--lease)"


def test_a_limit_that_is_named_again_as_it_is_begins_nothing_anew() -> None:
    rig = Rig(1, 2, idle=60.0).ready()
    rig.timers.clear()
    rig.feed(s.Asked(b"c", p.SetLimits("q", {"idle": 60.0}), 50.0))
    assert rig.timers == {}


def test_a_longest_life_that_is_over_already_is_refused() -> None:
    rig = Rig(1, 2).ready()
    effects = rig.feed(s.Asked(b"c", p.SetLimits("q", {"max_lifetime": 600.0, "idle": 60.0}), 3600.0))
    (answer,) = [effect.reply for effect in effects if isinstance(effect, s.Answer)]
    assert isinstance(answer, p.Refused)
    assert answer.reason.startswith("the session is up for 1h already: --max-lifetime can only be longer")
    assert rig.machine.lease.idle is None


def test_the_warning_of_a_life_that_was_made_shorter_says_what_is_left() -> None:
    rig = Rig(1, 2).ready()
    rig.feed(s.Asked(b"c", p.SetLimits("q", {"max_lifetime": 3600.0}), 3540.0))
    assert rig.timers == {"lifetime": 60.0, "lifetime warning": 0.0}
    rig.fire("lifetime warning")
    assert notices(rig)[-1].startswith("this session ends in 1min, also while a cell runs")
