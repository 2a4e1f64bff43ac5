"""The runs that wait, in their order, and what those who wait are told of their place."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.state.words import Effect, Log, SetTimer

__all__ = ["Queue"]


@dataclass(slots=True)
class Queue:
    """The runs that wait, with the clients that want them.

    `places` is how many runs each had before it when that was last told. `retrying` is a run between two attempts: it
    stands at the head and holds the queue. `awaiting` is the run and the attempt that waits for nodes there, once that
    was told.
    """

    waiting: deque[tuple[bytes, p.Run]] = field(default_factory=deque)
    places: dict[str, int] = field(default_factory=dict)
    retrying: str = ""
    awaiting: tuple[str, int] = "", 0

    @property
    def runs(self) -> list[str]:
        """The ids of the runs that wait, the next one first."""
        return [request.task.run for _, request in self.waiting]

    def add(self, client: bytes, request: p.Run, before: int, at_once: bool) -> list[Effect]:
        """Put a run at the end; `before` runs go on, and it is told its place unless it can begin `at_once`."""
        self.waiting.append((client, request))
        name, position = request.task.run, len(self.waiting) - 1 + before
        if not position and at_once:
            return []
        self.places[name] = position
        return [Log(p.RunQueued(name, position))]

    def retry(self, client: bytes, request: p.Run, told: p.RunRetried) -> list[Effect]:
        """Put a run back at the head, to be tried again after a delay."""
        self.retrying = request.task.run
        self.waiting.appendleft((client, request))
        return [Log(told), SetTimer("retry", told.delay)]

    def await_nodes(self, task: p.Execute, until: str) -> list[Effect]:
        """Say, once for each attempt, that it waits where it is, and until when."""
        told, self.awaiting = self.awaiting, (task.run, task.attempt)
        return [Log(p.Notice(f"attempt {task.attempt} begins {until}"))] if told != self.awaiting else []

    def remove(self, name: str) -> list[Effect]:
        """Take a run out, if it is here: it ends, interrupted."""
        effects: list[Effect] = []
        for queued in [entry for entry in self.waiting if entry[1].task.run == name]:
            self.waiting.remove(queued)
            effects.append(Log(p.RunEnded(name, "interrupted", [], 0.0)))
            if self.retrying == name:
                self.retrying = ""
                effects.append(SetTimer("retry", None))
        return effects

    def clear(self) -> list[Effect]:
        """Take all runs out: they end, interrupted."""
        ended: list[Effect] = [Log(p.RunEnded(name, "interrupted", [], 0.0)) for name in self.runs]
        self.waiting.clear()
        self.retrying = ""
        return ended

    def tell_places(self, before: int) -> list[Effect]:
        """Say where those that wait are now, as others before them have gone; `before` runs go on."""
        told, self.places = self.places, {name: index + before for index, name in enumerate(self.runs)}
        return [
            Log(p.RunQueued(name, position))
            for name, position in self.places.items()
            if name in told and told[name] != position and self.retrying != name
        ]
