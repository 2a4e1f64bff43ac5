"""What a zygote decides by itself, without a process."""

from __future__ import annotations

import os
import select
import signal
import socket

import pytest

from modal_magic import protocol as p
from modal_magic.links.framing import frame
from modal_magic.node import zygote as room
from modal_magic.node.channel import Channel
from modal_magic.node.zygote import AGENTS_REPLACED, REPLACED_SECONDS, Zygote, from_agent, replace_agent
from modal_magic.specs import AgentSpec, Fork, WorkerSpec

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


def test_an_agent_in_the_place_of_another_does_not_say_again_how_its_node_came_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = list[AgentSpec]()
    monkeypatch.setattr(room, "start_agent", lambda zygote, spec: started.append(spec))
    told = AgentSpec(
        "s", 1, "", 1, "", "", "", "", "none", 1, 0, notice="it is back", stages=[p.Stage("restore", 1, 2)]
    )
    replace_agent(Zygote(-1, -1), told, signal.SIGKILL)
    (successor,) = started
    assert (successor.notice, successor.stages) == ("", [])


def test_a_rank_with_a_large_environment_is_forked_with_its_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    born = list[tuple[WorkerSpec, int]]()

    def bear(kind: str, spec: WorkerSpec, descriptors: list[int], leave: object) -> tuple[int, str]:
        born.append((spec, len(descriptors)))
        return 4321, ""

    monkeypatch.setattr(room, "bear", bear)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        zygote = Zygote(-1, -1, agents=[Channel(ours)])
        for rank in range(2):
            place = p.Place(rank, {"CREDENTIALS": "x" * 70_000}, "cpu")
            spec = WorkerSpec("s", place, 1, None, "none")
            there = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
            socket.send_fds(theirs, [frame(Fork(spec))], there)
            while select.select([ours], [], [], 0)[0]:
                from_agent(zygote, zygote.agents[0])
            assert born == [(spec, 4)]
            born.clear()
            for descriptor in there:
                os.close(descriptor)
