"""Named timers of which each fires once: in monotonic seconds, by whoever asks what has run out."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

__all__ = ["Timers"]


@dataclass(slots=True)
class Timers:
    """Named timers: each fires once, a later setting replaces an earlier one."""

    due: dict[str, float] = field(default_factory=dict)
    heap: list[tuple[float, str]] = field(default_factory=list)

    def set(self, name: str, when: float | None) -> None:
        """Have a timer fire at `when` (monotonic seconds), or not at all."""
        if when is None:
            self.due.pop(name, None)
        else:
            self.due[name] = when
            heapq.heappush(self.heap, (when, name))

    def fired(self, now: float) -> list[str]:
        """The timers that have run out, oldest first; they are taken out."""
        names = []
        while self.heap and self.heap[0][0] <= now:
            when, name = heapq.heappop(self.heap)
            if self.due.get(name) == when:
                del self.due[name]
                names.append(name)
        return names
