"""How long each stage of a session's start takes, up to the end of its first cell."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from modal_magic import protocol as p

__all__ = ["Startup"]


class Startup:
    """The stages of one session's start, in the order in which they began. Times are in seconds since 1970.

    What changes a stage returns it as it is now. A node that comes back later begins no stage.
    """

    def __init__(self, given: Iterable[p.Stage], nodes: int, world_size: int, at: float) -> None:
        self._stages: dict[tuple[str, int], p.Stage] = {(stage.name, stage.node): stage for stage in given}
        self._nodes = set(range(nodes))
        self._ranks = set(range(world_size))
        self._first_run = ""
        self.over = False
        self._end("gateway", at)

    @property
    def stages(self) -> list[p.Stage]:
        """All stages that have begun, oldest first."""
        return sorted(self._stages.values(), key=lambda stage: stage.began)

    def joined(self, node: int, own: Iterable[p.Stage], at: float) -> list[p.Stage]:
        """The agent of a node is there; `own` are the stages of the node."""
        if node not in self._nodes:
            return []
        self._nodes.discard(node)
        changed = [msgspec.structs.replace(stage, node=node) for stage in own]
        self._stages.update({(stage.name, stage.node): stage for stage in changed})
        changed += self._end("queue", min([at, *(stage.began for stage in changed)]), node)
        return changed if self._nodes else [*changed, *self._begin("fork", at)]

    def hear(self, event: p.Event, at: float) -> list[p.Stage]:
        """An event of the session."""
        match event:
            case p.Launched(rank=rank):
                self._ranks.discard(rank)
                ended = [] if self._ranks else self._end("fork", at)
                return [*ended, *self._begin("rendezvous", at)] if ended else []
            case p.SessionChanged(state="ready" | "degraded"):
                return self._end("fork", at) + self._end("rendezvous", at)
            case p.Submitted(run=run) if not self._first_run:
                self._first_run = run
                return self._begin("first cell", at)
            case p.RunEnded(run=run) if run == self._first_run:
                self.over = True
                return self._end("first cell", at)
        return []

    def _begin(self, name: p.StageName, at: float) -> list[p.Stage]:
        self._stages[name, -1] = begun = p.Stage(name, at)
        return [begun]

    def _end(self, name: p.StageName, at: float, node: int = -1) -> list[p.Stage]:
        """End a stage that goes on. Clocks of two machines may disagree: no stage takes less than no time."""
        stage = self._stages.get((name, node))
        if stage is None or stage.seconds is not None:
            return []
        ended = self._stages[name, node] = msgspec.structs.replace(stage, seconds=max(0.0, at - stage.began))
        return [ended]
