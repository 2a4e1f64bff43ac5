"""Where is everyone: asks ranks for their stacks, gathers the answers, and has stalls told. A part of the gateway."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.state import BUSY, LOOK_SECONDS, Machine, RankState, StallWatch

__all__ = ["StackDesk"]

DEADLINE_SECONDS = 0.18
"""How long a client waits at most: somewhat more than agents wait for their ranks."""

WATCHED = BUSY | {RankState.DONE}
"""The states in which it is known of a rank which collectives it has come to, while others wait in one."""


@dataclass(slots=True)
class Call:
    """A question that is under way: who asked (None: the watch), until when, and who has answered."""

    client: bytes | None
    until: float
    missing: set[int]
    answers: dict[int, p.StackTaken] = field(default_factory=dict)


@dataclass(slots=True)
class StackDesk:
    """Asks the ranks of a session where they are, for clients and for the watch over stalls.

    A class because answers come one by one. `tell`, `reply` and `record` are the gateway's; times are
    in monotonic seconds.
    """

    machine: Machine
    tell: Callable[[int, p.Order], None]
    reply: Callable[[bytes, p.Reply], None]
    record: Callable[[p.Event], None]
    watch: StallWatch = field(default_factory=StallWatch)
    calls: dict[str, Call] = field(default_factory=dict)
    count: int = 0

    def due(self) -> float:
        """When a question is due to be answered without the ranks that are silent; looks come with the beats."""
        return min((call.until for call in self.calls.values()), default=math.inf)

    def turn(self, now: float) -> None:
        """Look at the ranks of the run if it is time to, and answer what has waited long enough."""
        active = self.machine.active
        # A run that is being ended needs no watch: whoever does not leave it is killed.
        watched = active.run if active is not None and not active.failures and not active.interrupted else None
        if self.watch.due(watched, now):
            self.count += 1
            self._call(f"watch-{self.count}", None, depth=0, now=now)
        for request in [request for request, call in self.calls.items() if now >= call.until]:
            self._close(request, now)

    def ask(self, client: bytes, request: p.AskStack, now: float) -> None:
        """A client wants to know where every rank is."""
        self._call(request.request, client, request.depth, now)

    def hear(self, event: p.NodeEvent, now: float) -> bool:
        """Take an event of a rank. Whether it was an answer, which concerns nobody else."""
        if isinstance(event, p.Finished) and event.exit_code is not None:
            self.watch.exited.add((event.run, event.rank))
        if not isinstance(event, p.StackTaken):
            return False
        call = self.calls.get(event.request)
        if call is not None and event.rank in call.missing:
            call.missing.discard(event.rank)
            call.answers[event.rank] = event
            if not call.missing:
                self._close(event.request, now)
        return True

    def _call(self, request: str, client: bytes | None, depth: int, now: float) -> None:
        topology = self.machine.settings.topology
        wanted = WATCHED if client is None else {state for state in RankState if state is not RankState.LOST}
        here = [number for number, rank in enumerate(self.machine.ranks) if rank.pid and rank.state in wanted]
        by_node: dict[int, list[int]] = {}
        for rank in here:
            by_node.setdefault(topology.node_of(rank), []).append(rank)
        self.calls[request] = Call(client, now + (LOOK_SECONDS / 2 if client is None else DEADLINE_SECONDS), set(here))
        for node_rank, ranks in by_node.items():
            self.tell(node_rank, p.StackRanks(ranks, request, depth))
        if not here:
            self._close(request, now)

    def _close(self, request: str, now: float) -> None:
        call = self.calls.pop(request)
        stacks = {rank: self._stack(rank, call) for rank in range(len(self.machine.ranks))}
        if call.client is not None:
            self.reply(call.client, p.Stacks(request, list(stacks.values())))
        elif stall := self.watch.news(stacks, now):
            self.record(stall)

    def _stack(self, rank: int, call: Call) -> p.RankStack:
        state: str = self.machine.ranks[rank].state
        active = self.machine.active
        if active is not None and call.client is None and rank not in active.ranks:
            state = "elsewhere"
        elif active is not None and (active.run, rank) in self.watch.exited:
            state = "exited"
        answer = call.answers.get(rank)
        if call.client is None and self.machine.ranks[rank].state not in BUSY:  # nobody waits for it to go on
            return p.RankStack(rank, state, answer.where if answer is not None else None)
        if rank in call.missing:
            return p.RankStack(rank, state, silent="does not answer: neither does the agent of its node")
        if answer is None:
            return p.RankStack(rank, state)
        if state == RankState.RENDEZVOUS:  # it is in calls of ours, which say nothing of the user's program
            return p.RankStack(rank, state, p.Whereabouts() if answer.where else None, silent=answer.silent)
        return p.RankStack(rank, state, answer.where, answer.frames, answer.silent)
