"""A simulated clock, the connections between processes, and the one source of chance."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from random import Random

from modal_magic import protocol as p

__all__ = ["Violation", "Wire", "World", "is_beat"]

BEATS = (p.encode(p.Beat()), p.encode(p.Tally(0, 0))[:-2])
"""How beats begin: those of agents and of the gateway to them, and those to clients."""

MOST_EVENTS = 400_000
"""So many events no schedule needs: one that has more goes round in circles."""


def is_beat(frames: list[bytes]) -> bool:
    """Whether a message says no more than that its sender lives."""
    return frames[-1].startswith(BEATS)


class Violation(AssertionError):
    """Something happened that must never happen."""


class World:
    """Time, what is to happen when, and a trace of what did. Seconds; the same seed gives the same world."""

    def __init__(self, seed: int, traced: bool = False) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.events = 0
        self.trace: list[str] | None = [] if traced else None
        self._soon: list[Callable[[], None]] = []
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0

    def at(self, when: float, action: Callable[..., None], *arguments: object) -> None:
        """Have something happen at a time."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, action, arguments))

    def after(self, seconds: float, action: Callable[..., None], *arguments: object) -> None:
        """Have something happen in a while."""
        self.at(self.now + seconds, action, *arguments)

    def soon(self, action: Callable[[], None]) -> None:
        """Have something happen when all that happens now has happened."""
        self._soon.append(action)

    def run(self, until: Callable[[], bool], limit: float) -> bool:
        """Let things happen until a condition holds, for at most `limit` seconds. Whether it came to hold."""
        end = self.now + limit
        while not until():
            if not self._heap or self._heap[0][0] > end:
                self.now = end
                return until()
            self.events += 1
            if self.events > MOST_EVENTS:
                raise Violation("the session goes round in circles")
            self.now, _, action, arguments = heapq.heappop(self._heap)
            action(*arguments)
            while self._soon:
                self._soon.pop()()
        return True

    def between(self, least: float, most: float) -> float:
        """A duration, any as likely as any other of the same magnitude."""
        return float(least * (most / least) ** self.random.random())

    def note(self, who: str, *what: object) -> None:
        """A line of the trace; it is made only where there is one, for most of a schedule's time would go there."""
        if self.trace is not None:
            self.trace.append(f"{self.now * 1000:10.3f} ms  {who:12} {' '.join(map(str, what))}")


class Wire:
    """One peer's connection to the gateway, as a DEALER and a ROUTER see it over TCP.

    Within a connection order holds and nothing is lost; it can stand still for a while, or be full. Where it breaks,
    what was under way is lost in both directions; the peer's side keeps what is sent until it is connected again, the
    gateway's drops. A noisy one is worse than any TCP: it drops, doubles and swaps.
    """

    def __init__(
        self,
        world: World,
        peer: str,
        to_gateway: Callable[[list[bytes]], None],
        to_peer: Callable[[list[bytes]], None],
        slowest: float,
    ) -> None:
        self.world, self.peer, self.to_gateway, self.to_peer, self.slowest = world, peer, to_gateway, to_peer, slowest
        self.connection = 0
        self.connected = True
        self.gone = False
        self.still_until = self.full_until = self.noisy_until = 0.0
        self._hands_over = False
        self._last = [0.0, 0.0]
        self._under_way: tuple[deque[list[bytes]], deque[list[bytes]]] = (deque(), deque())
        self._kept: list[list[bytes]] = []
        self.lost = 0
        self.last_fault = -1.0

    @property
    def flows(self) -> bool:
        """Whether a word that is said now is heard soon."""
        return self.connected and not self.gone and self.world.now >= self.still_until

    @property
    def takes(self) -> bool:
        """Whether a message can be sent now."""
        return self.connected and not self.gone and self.world.now >= self.full_until

    def up(self, frames: list[bytes]) -> None:
        """The peer sends."""
        if self.gone:
            return
        if not self.connected:
            self._kept.append(frames)
        elif not self._hands_over and self._is_swift(0, frames):
            self.to_gateway(frames)
        else:
            self._carry(0, frames)

    def down(self, frames: list[bytes]) -> None:
        """The gateway sends."""
        if self._is_swift(1, frames):
            self._hands_over = True  # the gateway is in the middle of its turn: an answer is another message
            self.to_peer(frames)
            self._hands_over = False
        elif self.connected and not self.gone:
            self._carry(1, frames)

    def _is_swift(self, way: int, frames: list[bytes]) -> bool:
        """Whether a message takes no time: a beat on an idle connection, for beats are many."""
        noisy = self.world.now < self.noisy_until
        return is_beat(frames) and self.flows and not noisy and not self._under_way[way]

    def _carry(self, way: int, frames: list[bytes]) -> None:
        world, under_way = self.world, self._under_way[way]
        if world.now < self.noisy_until:
            chance = world.random.random()
            if chance < 0.15:
                return
            if chance < 0.3:
                self._send(way, frames)
            elif chance < 0.45 and under_way:
                frames, under_way[-1] = under_way[-1], frames
        self._send(way, frames)

    def _send(self, way: int, frames: list[bytes]) -> None:
        world = self.world
        self._under_way[way].append(frames)
        arrival = self._last[way] = max(self._last[way], world.now + world.between(5e-5, self.slowest))
        world.after(arrival - world.now, self._arrive, way, self.connection)

    def _arrive(self, way: int, connection: int) -> None:
        """One message arrives: the oldest, so that order holds."""
        if self.gone or connection != self.connection:
            return
        if self.world.now < self.still_until:
            self.world.after(self.still_until - self.world.now + 1e-6, self._arrive, way, connection)
        elif way:
            self.to_peer(self._under_way[way].popleft())
        else:
            self.to_gateway(self._under_way[way].popleft())

    def stand_still(self, seconds: float) -> None:
        """Nothing arrives for a while; then all of it does."""
        self.world.note(self.peer, f"-- its connection stands still for {seconds:.3f} s")
        self.still_until = max(self.still_until, self.world.now + seconds)
        self.last_fault = max(self.last_fault, self.still_until)

    def be_full(self, seconds: float) -> None:
        """Nothing can be sent for a while."""
        self.world.note(self.peer, f"-- its connection is full for {seconds:.3f} s")
        self.full_until = max(self.full_until, self.world.now + seconds)
        self.last_fault = max(self.last_fault, self.full_until)

    def be_noisy(self, seconds: float) -> None:
        """Messages are lost, doubled and swapped for a while."""
        self.world.note(self.peer, f"-- its connection is noisy for {seconds:.3f} s")
        self.noisy_until = max(self.noisy_until, self.world.now + seconds)
        self.last_fault = max(self.last_fault, self.noisy_until)

    def reset(self, seconds: float) -> None:
        """The connection breaks, and is made anew after a while."""
        self.world.note(self.peer, f"-- its connection breaks for {seconds:.3f} s")
        self.connection += 1
        self.connected = False
        for frames in self._under_way:
            self.lost += len(frames)
            frames.clear()
        self.last_fault = max(self.last_fault, self.world.now + seconds)
        self.world.after(seconds, self._reconnect, self.connection)

    def _reconnect(self, connection: int) -> None:
        if connection == self.connection and not self.connected:
            self.connected = True
            self._last = [self.world.now, self.world.now]
            kept, self._kept = self._kept, []
            for frames in kept:
                self._carry(0, frames)

    def cut(self) -> None:
        """The peer is no more."""
        self.gone = True
        self.last_fault = self.world.now
