"""Who waits for whom: whether some ranks of a run wait in a collective for others that are not there.

Pure. It says nothing while all ranks compute, nor while all are in the same collective, however long that takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modal_magic import protocol as p

__all__ = ["LOOK_SECONDS", "PATIENCE_SECONDS", "StallWatch", "find_stall"]

LOOK_SECONDS = 1.0
"""How often the ranks of a run are asked where they are."""
PATIENCE_SECONDS = 5.0
"""How long ranks wait for others before it is said; after that, so long again, then twice that, four times …"""
TWO_SIDED = ("send", "recv")
ONE_SIDED = ("broadcast", "scatter", "gather", "reduce")
"""How the collectives begin that a rank may leave before all others have entered."""


def find_stall(run: str, stacks: Mapping[int, p.RankStack], patience: float) -> p.Stalled | None:
    """The ranks that have waited for `patience` seconds or longer, and those of `stacks` that they wait for.

    `stacks` has every rank of the session. None where nobody waits, or nobody is missing.
    """
    waiting = {
        rank: stack
        for rank, stack in stacks.items()
        if stack.where is not None and stack.where.collective and stack.where.since >= patience
    }
    missing: set[int] = set()
    for stack in waiting.values():
        assert stack.where is not None
        wanted = stack.where.members or stacks
        missing |= {rank for rank in wanted if rank in stacks and not _is_there(stacks[rank].where, stack.where)}
    if not missing:
        return None
    # In a mismatch the ones miss the others: then all of them wait, and nobody is to blame more than another.
    return p.Stalled(run, list(waiting.values()), [stacks[rank] for rank in sorted(missing - waiting.keys())])


def _is_there(where: p.Whereabouts | None, wanted: p.Whereabouts) -> bool:
    """Whether a rank is in the collective in which another one is, or has been there and was free to leave.

    The number alone does not tell: send and recv raise it on some ranks only (gloo). These meet by their ranks, under
    different names.
    """
    if where is None:
        return False
    if where.collective.startswith(TWO_SIDED) and wanted.collective.startswith(TWO_SIDED):
        return where.members == wanted.members
    if (where.collective, where.group) == (wanted.collective, wanted.group):
        return True
    passed = where.sequence - bool(where.collective) >= wanted.sequence and where.group == wanted.group
    return passed and wanted.collective.startswith(ONE_SIDED) and not wanted.collective.startswith("reduce_scatter")


@dataclass(slots=True)
class StallWatch:
    """Decides when to look at the ranks of a run, and what of that is news. Times are in monotonic seconds."""

    run: str | None = None
    next_look: float = 0.0
    silent_until: float = 0.0
    pause: float = PATIENCE_SECONDS
    told: object = None
    exited: set[tuple[str, int]] = field(default_factory=set)

    def due(self, run: str | None, now: float) -> bool:
        """Whether the ranks of the run that goes on (None: there is none) are to be asked where they are."""
        if run != self.run:
            self.run, self.next_look, self.told = run, now + LOOK_SECONDS, None
            self.silent_until, self.pause = 0.0, PATIENCE_SECONDS
            self.exited = {exit for exit in self.exited if exit[0] == run}
        if run is None or now < self.next_look:
            return False
        self.next_look = now + LOOK_SECONDS
        return True

    def news(self, stacks: Mapping[int, p.RankStack], now: float) -> p.Stalled | None:
        """What is to be said of where the ranks are: a stall that was not told yet, and not too soon after another."""
        if self.run is None or now < self.silent_until:
            return None
        stall = find_stall(self.run, stacks, PATIENCE_SECONDS)
        if stall is None or (gist := _gist(stall)) == self.told:
            return None
        self.told, self.silent_until, self.pause = gist, now + self.pause, 2 * self.pause
        return stall


def _gist(stall: p.Stalled) -> object:
    """What of a stall is news when it changes: the times are not."""

    def place(stack: p.RankStack) -> object:
        where = stack.where
        return stack.rank, stack.state, stack.silent, where and (where.line, where.collective, where.sequence)

    return tuple(map(place, stall.waiting)), tuple(map(place, stall.missing))
