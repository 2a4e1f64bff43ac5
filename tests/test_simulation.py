"""Sessions on a simulated clock and network, 20,000 of them: `python -m tests.simulation SEED` replays one."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modal_magic import protocol as p
from modal_magic.gateway.log import EventLog
from modal_magic.gateway.timers import Timers
from modal_magic.protocol import encoding
from modal_magic.state.active_run import LOST, ActiveRun
from tests.simulation.play import play

pytestmark = pytest.mark.patient

ROOT = Path(__file__).parent.parent
SCHEDULES = 20_000
PROCESSES = 2


@pytest.mark.timeout(600)
def test_whatever_befalls_a_session_what_must_be_true_is() -> None:
    each = SCHEDULES // PROCESSES
    # Tests that hold promises of time may run beside it.
    command = ["nice", "-n", "10", sys.executable, "-m", "tests.simulation", "--count", str(each)]
    players = [
        subprocess.Popen([*command, str(each * number)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for number in range(PROCESSES)
    ]
    try:
        told = "".join(player.communicate()[0] for player in players)
    finally:
        for player in players:
            player.kill()
    assert [player.returncode for player in players] == [0] * PROCESSES, told


def test_a_seed_replays_exactly() -> None:
    for seed in range(20):
        first, second = play(seed, traced=True), play(seed, traced=True)
        assert first == second and len(first.lines) > 20


def forget_health(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("modal_magic.state.running.can_meet_again", lambda healths: True)


def blame_who_spoke_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ActiveRun, "fail", failing_in_order(ActiveRun.fail))


def failing_in_order(original: Callable[..., bool]) -> Callable[..., bool]:
    return lambda active, rank, kind, *rest: original(active, rank, LOST, *rest)


def be_patient(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tests.simulation.agents.LEAVE_SECONDS", 5.0)


def never_give_a_verdict(patch: pytest.MonkeyPatch) -> None:
    forget(patch, "verdict")


def never_end_a_lease(patch: pytest.MonkeyPatch) -> None:
    forget(patch, "lease")


def forget(patch: pytest.MonkeyPatch, timer: str) -> None:
    original = Timers.set

    def set_all_but_one(timers: Timers, name: str, when: float | None) -> None:
        original(timers, name, None if name == timer else when)

    patch.setattr(Timers, "set", set_all_but_one)


def never_repeat(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("modal_magic.links.delivery.REPEAT_SECONDS", math.inf)


def never_reach_a_time_limit(patch: pytest.MonkeyPatch) -> None:
    forget(patch, "timeout")


def try_again_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("modal_magic.state.attempts.delay_before", lambda attempt, retries: 0.0)


def lose_a_record(patch: pytest.MonkeyPatch) -> None:
    original = p.join
    patch.setattr(encoding, "join", lambda records: original([record for record in records if b" 2\n" not in record]))


def lose_output(patch: pytest.MonkeyPatch) -> None:
    original = EventLog.append

    def append(log: EventLog, event: p.Event, now: float, withheld: bool) -> bytes:
        if isinstance(event, p.Output) and event.text.endswith(" 2\n"):
            event = p.Output(event.rank, event.run, event.stream, "")
        return original(log, event, now, withheld)

    patch.setattr(EventLog, "append", append)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (forget_health, "collectives mix"),
        (blame_who_spoke_first, "names rank"),
        (be_patient, "after its first trouble"),
        (never_give_a_verdict, "after its first trouble"),
        (never_end_a_lease, "outlives its lease"),
        (never_repeat, "does not"),
        (never_reach_a_time_limit, "after its first trouble"),
        (try_again_at_once, "is tried again after"),
        (lose_a_record, "records"),
        (lose_output, "records"),
    ],
)
def test_a_fault_in_our_own_code_is_found(
    fault: Callable[[pytest.MonkeyPatch], None], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    assert any(found in play(seed).violation for seed in range(400))
