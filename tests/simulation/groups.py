"""A model of process groups: how ranks meet at the store, and what a collective of theirs comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.world import Violation, World

if TYPE_CHECKING:
    from tests.simulation.ranks import Rank

__all__ = ["Group", "Keeper"]


class Group:
    """A process group. Its i-th collective is one thing, or numbers of different cells are added up."""

    def __init__(self, world: World, generation: int, members: dict[int, Rank]) -> None:
        self.world, self.generation, self.members = world, generation, members
        self.issued = dict.fromkeys(members, 0)
        self.labels: list[str] = []
        self.arrived: list[list[Rank]] = []
        self.broken = False

    def issue(self, rank: Rank, label: str) -> int:
        """A rank issues its next collective. Returns its number."""
        number = self.issued[rank.rank]
        self.issued[rank.rank] += 1
        if number == len(self.labels):
            self.labels.append(label)
            self.arrived.append([])
        elif self.labels[number] != label:
            raise Violation(f"collectives mix: rank {rank.rank} is in {label}, others are in {self.labels[number]}")
        self.arrived[number].append(rank)
        if len(self.arrived[number]) == len(self.members):
            delay = self.world.between(1e-4, 3e-3)
            for member in self.arrived[number]:
                if member.waits_for == (self, number) or member is rank:
                    self.world.after(delay, member.collective_done, self, number)
        return number

    def shatter(self, by: Rank) -> None:
        """A member is gone, or has cut its connections: who waits for it hears of that."""
        if self.broken:
            return
        self.broken = True
        for member in self.members.values():
            if member is not by and member.waits_for is not None and member.waits_for[0] is self:
                self.world.after(self.world.between(1e-3, 0.06), member.connection_error, member.token)


@dataclass(slots=True)
class _Meeting:
    """The keys of one generation in the store: arrivals are counted, and who is connecting is known."""

    arrivals: int = 0
    open: bool = False
    connecting: dict[int, Rank] = field(default_factory=dict)


class Keeper:
    """The store, and what torch makes of it: a group forms when every rank of the world has come for the same keys."""

    def __init__(self, world: World, world_size: int) -> None:
        self.world, self.world_size = world, world_size
        self.meetings: dict[int, _Meeting] = {}
        self.gathering: dict[int, list[Rank]] = {}

    def arrive(self, rank: Rank, generation: int) -> None:
        """A rank comes to the door of a generation; the last one opens it."""
        meeting = self.meetings.setdefault(generation, _Meeting())
        meeting.arrivals += 1
        self.gathering.setdefault(generation, []).append(rank)
        if meeting.arrivals >= self.world_size:
            meeting.open = True
            for each in self.gathering.pop(generation):
                if each.alive and each.gathers == generation:
                    self.world.after(self.world.between(1e-4, 5e-3), self.connect, each, generation)

    def connect(self, rank: Rank, generation: int) -> None:
        """Torch's own rendezvous, in C++: it comes back with a group, with an error, or not at all."""
        if not rank.alive or rank.gathers != generation:
            return
        rank.gathers, rank.connects = 0, generation
        meeting = self.meetings[generation]
        if rank.rank in meeting.connecting:
            raise Violation(f"rank {rank.rank} comes a second time to generation {generation}")
        meeting.connecting[rank.rank] = rank
        if len(meeting.connecting) < self.world_size:
            return
        if not all(member.alive for member in meeting.connecting.values()):
            self.fail(generation)
            return
        group = Group(self.world, generation, dict(meeting.connecting))
        delay = self.world.between(5e-4, 5e-3)
        for member in meeting.connecting.values():
            self.world.after(delay, member.grouped, group)

    def fail(self, generation: int) -> None:
        """One that was connecting is gone: the others hear of it."""
        for member in self.meetings[generation].connecting.values():
            if member.alive and member.connects == generation:
                self.world.after(self.world.between(1e-3, 0.06), member.group_failed, generation)
