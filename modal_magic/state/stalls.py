"""Who waits for whom: whether ranks of a run wait in a collective for others, or its end for ranks that do not move.

Pure. It says nothing while all ranks compute, nor while all are in the same collective, however long that takes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from modal_magic import protocol as p

__all__ = ["LOOK_SECONDS", "PATIENCE_SECONDS", "StallWatch", "find_stall"]

LOOK_SECONDS = 1.0
"""How often the ranks of a run are asked where they are."""
PATIENCE_SECONDS = 5.0
"""How long ranks wait for others before it is said; after that, so long again, then twice that, four times …"""
TWO_SIDED = ("send", "recv", "isend", "irecv")
BLOCKING = ("send", "recv")
"""Of these, two that are the same do not meet; of the others one may be under way in each direction."""
ONE_SIDED = ("broadcast", "scatter", "gather", "reduce")
"""How the collectives begin that a rank may leave before all others have entered."""
FINISHED = ("done", "exited")
STOPPED = "is stopped"


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
    for waiter, stack in waiting.items():
        assert stack.where is not None
        others = {rank: stacks[rank] for rank in stack.where.members or stacks if rank != waiter and rank in stacks}
        missing |= {rank for rank, other in others.items() if not _is_there(other.where, stack.where)}
    if not missing:
        return None
    # In a mismatch the ones miss the others: then all of them wait, and nobody is to blame more than another.
    # Who has come to the same call a little later waits too, and nobody needs to look for that rank.
    calls = {_call(stack) for stack in waiting.values()}
    there = {rank for rank, stack in stacks.items() if _call(stack) in calls}
    return p.Stalled(run, [stacks[rank] for rank in sorted(there)], [stacks[rank] for rank in sorted(missing - there)])


def _call(stack: p.RankStack) -> tuple[object, ...] | None:
    """What tells the call that a rank waits in from another one; None where it is in none."""
    where = stack.where
    if where is None or not where.collective:
        return None
    return where.collective.removesuffix(p.ASYNC), where.group, where.sequence, tuple(where.members)


def find_laggards(run: str, stacks: Mapping[int, p.RankStack], still: Collection[int]) -> p.Stalled | None:
    """The ranks that hold up the end of a run, and those that have finished it; None where there are none.

    `still` are the ranks that have not moved for a while. A process that is stopped holds everyone up, one that
    computes only those that have finished.
    """
    finished = [stack for stack in stacks.values() if stack.state in FINISHED]
    late = [stacks[rank] for rank in sorted(still) if finished or stacks[rank].silent.startswith(STOPPED)]
    return p.Stalled(run, finished, late) if late else None


def _is_there(where: p.Whereabouts | None, wanted: p.Whereabouts) -> bool:
    """Whether a rank is in the collective in which another one is, or has been there and was free to leave.

    The number alone does not tell: send and recv raise it on some ranks only (gloo). These meet by their ranks, under
    different names.
    """
    if where is None:
        return False
    if where.collective.startswith(TWO_SIDED) and wanted.collective.startswith(TWO_SIDED):
        if where.collective == wanted.collective and where.collective in BLOCKING:
            return False  # both send, or both receive
        # One that receives from whoever sends names itself alone.
        return where.members == wanted.members or (len(where.members) == 1 and where.members[0] in wanted.members)
    here, there = where.collective.removesuffix(p.ASYNC), wanted.collective.removesuffix(p.ASYNC)
    if (here, where.group) == (there, wanted.group):
        return True
    if where.group != wanted.group or where.behind < wanted.sequence:
        return False
    return there != wanted.collective or (there.startswith(ONE_SIDED) and not there.startswith("reduce_scatter"))


@dataclass(slots=True)
class StallWatch:
    """Decides when to look at the ranks of a run, and what of that is news. Times are in monotonic seconds."""

    run: str | None = None
    next_look: float = 0.0
    silent_until: float = 0.0
    pause: float = PATIENCE_SECONDS
    told: object = None
    still: dict[int, float] = field(default_factory=dict)
    finished: float | None = None
    exited: set[tuple[str, int]] = field(default_factory=set)

    def due(self, run: str | None, now: float) -> bool:
        """Whether the ranks of the run that goes on (None: there is none) are to be asked where they are."""
        if run != self.run:
            self.run, self.next_look, self.told = run, now + LOOK_SECONDS, None
            self.silent_until, self.pause, self.still, self.finished = 0.0, PATIENCE_SECONDS, {}, None
            self.exited = {exit for exit in self.exited if exit[0] == run}
        if run is None or now < self.next_look:
            return False
        self.next_look = now + LOOK_SECONDS
        return True

    def news(self, stacks: Mapping[int, p.RankStack], now: float) -> p.Stalled | None:
        """What is to be said of where the ranks are: a stall that was not told yet, and not too soon after another."""
        if self.run is None:
            return None
        # A rank that says nothing does not say since when, so that is noted here.
        self.still = {rank: self.still.get(rank, now) for rank, stack in stacks.items() if stack.silent}
        if not any(stack.state in FINISHED for stack in stacks.values()):
            self.finished = None
        elif self.finished is None:
            self.finished = now
        if now < self.silent_until:
            return None
        stall = find_stall(self.run, stacks, PATIENCE_SECONDS)
        if stall is not None:
            gist = _gist(stall)
        else:
            late = {rank for rank, since in self.still.items() if now - since >= PATIENCE_SECONDS}
            late |= {rank for rank, stack in stacks.items() if _stays(stack)}
            if self.finished is None or now - self.finished < PATIENCE_SECONDS:  # nobody has waited for long
                late = {rank for rank in late if stacks[rank].silent.startswith(STOPPED)}
            stall = find_laggards(self.run, stacks, late)
            # Where they are is no news: who computes comes to other lines, and it is the others who wait.
            gist = stall and [(stack.rank, stack.silent) for stack in stall.missing]
        if stall is None or gist == self.told:
            return None
        self.told, self.silent_until, self.pause = gist, now + self.pause, 2 * self.pause
        return stall


def _stays(stack: p.RankStack) -> bool:
    """Whether a rank has been at one line of the cell for long."""
    where = stack.where
    return where is not None and where.line > 0 and where.since >= PATIENCE_SECONDS


def _gist(stall: p.Stalled) -> object:
    """What of a stall is news when it changes: the times are not."""

    def place(stack: p.RankStack) -> object:
        where = stack.where
        return stack.rank, stack.state, stack.silent, where and (where.line, where.collective, where.sequence)

    return tuple(map(place, stall.waiting)), tuple(map(place, stall.missing))
