"""The run in progress as data: when it is over, who failed first, and whether its ranks can meet again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.ranges import name_ranks

__all__ = ["COMMUNICATION", "EXCEPTION", "LOST", "ActiveRun", "can_meet_again"]

LOST, EXCEPTION, COMMUNICATION = range(3)
"""Kinds of failure, the most telling first: a lost rank breaks the connections of others, never the other way round."""


@dataclass(slots=True)
class ActiveRun:
    """Who still owes an end, and what has gone wrong in the order of its arrival.

    `causes` has a phrase for each rank that failed; `reason` says why a run is interrupted that nobody interrupted.
    Of one that is `released` all ranks were told to leave. One that is `final` is not tried again.
    """

    run: str
    ranks: tuple[int, ...]
    pending: set[int]
    client: bytes = b""
    request: p.Run | None = None
    failures: list[tuple[int, int]] = field(default_factory=list)
    causes: dict[int, str] = field(default_factory=dict)
    interrupted: bool = False
    released: bool = False
    reason: str = ""
    final: bool = False

    @property
    def timeout(self) -> float | None:
        """How many seconds this attempt may take, None for any time."""
        return None if self.request is None else self.request.timeout

    def fail(self, rank: int, kind: int, cause: str) -> bool:
        """Note a failure, with its cause as a phrase. Whether others must hear of it: none so telling came before."""
        telling = all(kind < known for known, _ in self.failures)
        self.failures.append((kind, rank))
        self.causes[rank] = f"{name_ranks([rank])} {cause}"
        return telling and bool(self.pending) and not self.interrupted and not self.released

    def verdict(self) -> p.RunEnded:
        """How the run ended. Failures that follow an interrupt are its doing; those before it are not hidden by it."""
        status: p.RunStatus = "done"
        if self.interrupted or (self.pending and not self.failures):
            status = "interrupted"
        elif self.failures:
            status = "failed"
        culprits = [rank for _, rank in sorted(self.failures, key=lambda failure: failure[0])]
        reason = self.reason if status == "interrupted" else ""
        return p.RunEnded(self.run, status, culprits if status == "failed" else [], 0.0, reason=reason)


def can_meet_again(healths: Iterable[p.Health | None]) -> bool:
    """Whether the process groups are as good as before; None stands for a rank that is lost.

    That is so when nobody was lost or cut off and all have issued the same collectives: then a plain error on all ranks
    costs nobody the groups that a cell has made. All ranks of the session are asked, for one that a run left out issued
    none of those that the run did.
    """
    counts: dict[str, int] = {}
    for health in healths:
        if health is None or health.severed or not health.grouped:
            return False
        for group, count in health.sequences.items():
            if counts.setdefault(group, count) != count:
                return False
    return True
