"""What a zygote decides by itself, without a process."""

from __future__ import annotations

import signal

import pytest

from modal_magic.node import zygote as room
from modal_magic.node.zygote import AGENTS_REPLACED, REPLACED_SECONDS, Zygote, replace_agent
from modal_magic.specs import AgentSpec

SPEC = AgentSpec("s", 1, "127.0.0.1", 1, "", "", "", "127.0.0.1", "none", 1, 0)


def test_agents_that_die_now_and_then_are_replaced_for_ever_and_one_that_always_dies_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, started = [0.0], list[str]()
    monkeypatch.setattr(room, "start_agent", lambda zygote, spec: started.append(spec.predecessor))
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    zygote = Zygote(-1, -1)
    for _ in range(100):
        replace_agent(zygote, SPEC, signal.SIGKILL)
        now[0] += REPLACED_SECONDS
    assert started == ["was killed by SIGKILL"] * 100
    for _ in range(100):
        replace_agent(zygote, SPEC, signal.SIGKILL)
    assert len(started) == 100 + AGENTS_REPLACED
