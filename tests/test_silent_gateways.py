"""Gateways that fall silent, stopped or dead: nobody waits for them for ever, and what they know is not lost."""

from __future__ import annotations

import os
import signal
import threading
import time

import msgspec
import psutil
import pytest

from modal_magic import Session, registry
from modal_magic.errors import GatewayBusy, GatewayLost
from modal_magic.sessions.resources import Resources
from tests.support.clients import plain, resources_of_its_own
from tests.support.eventually import held, until
from tests.support.processes import end

__all__ = ["plain"]


def test_a_gateway_that_was_stopped_loses_nothing_and_nobody(plain: Session) -> None:
    run = plain.run("import time\nfor number in range(40):\n    print('line', number)\n    time.sleep(0.1)")
    until(lambda: len(run.ranks) == 2 and all(rank.output for rank in run.ranks.values()))
    with held(plain.connection.pid):
        threading.Event().wait(5.0)  # all have been silent for longer than anybody waits
    run.wait(30)
    for rank in (0, 1):
        assert run.ranks[rank].output.splitlines() == [f"line {number}" for number in range(40)]
    assert plain.run("rank").wait(10).ranks[1].result == "1"


def test_a_gateway_on_another_machine_is_not_taken_for_dead_because_it_is_silent(plain: Session) -> None:
    here = registry.read(plain.name)
    registry.publish(msgspec.structs.replace(here, pid=0, born=0.0))
    with resources_of_its_own() as other:
        session = Session.attach(plain.name, other)
        run = session.run("import time; time.sleep(3)\nrank")
        until(lambda: run.status == "running")
        with held(here.pid):
            with pytest.raises(GatewayBusy, match=r"cannot be reached: .* %modal_stop"):
                Session.attach(plain.name, other)
            with pytest.raises(GatewayBusy, match=r"cannot be reached\. What was asked"):
                session.status()
            blind = session.run("rank")
            assert any("cannot be reached. This waits for it" in str(event) for event in blind.events(5.0))
            blind.interrupt()
            with pytest.raises(GatewayBusy):
                blind.wait(5)
            assert plain.name in registry.names()
        assert run.wait(30).ranks[1].result == "1"
        session.detach()
    registry.publish(here)


def test_an_interrupt_gives_control_back_though_the_gateway_does_not_answer(plain: Session) -> None:
    run = plain.run("import time\nprint('begun')\ntime.sleep(1000)")
    until(lambda: len(run.ranks) == 2 and all(rank.output for rank in run.ranks.values()))
    with held(plain.connection.pid):
        run.interrupt()
        with pytest.raises(GatewayBusy, match="does not answer, though its process"):
            run.wait(5)
        began = time.monotonic()
        with pytest.raises(GatewayBusy, match="What was asked is done once it does"):
            plain.status()
        assert time.monotonic() - began < 3
        with pytest.raises(GatewayBusy):
            Session.attach(plain.name)
        assert plain.name in registry.names()
    assert plain.run("rank").wait(20).ranks[1].result == "1"  # the other was interrupted when the gateway could


def test_a_killed_gateway_gives_control_back_and_frees_the_name(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, session="again", backend="local", framework="none").ready()
    run = session.run("import time; time.sleep(1000)")
    os.kill(session.connection.pid, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(GatewayLost, match="is gone"):
        run.wait(10)
    assert time.monotonic() - began < 2.5
    with Session(resources=resources, session="again", backend="local", framework="none") as other:
        assert other.run("rank").wait(20).ranks[0].result == "0"


def test_what_is_left_of_a_dead_session_is_known_at_once(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, session="dead", backend="local", framework="none").ready()
    zygote = psutil.Process(session.connection.pid).parent()
    assert zygote is not None
    end([zygote, *zygote.children(recursive=True)])  # nobody is left who could tidy
    until(lambda: session.closed)
    began = time.monotonic()
    with pytest.raises(GatewayLost, match="but not its log"):
        Session.attach("dead", resources)
    assert time.monotonic() - began < 2
    assert "dead" in registry.names() and "dead" not in registry.living()
    registry.forget("dead")
