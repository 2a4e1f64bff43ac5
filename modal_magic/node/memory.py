"""Whether the system has been killing processes for want of memory: SIGKILL alone does not say so (Linux)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["MemoryWatch", "killed_for_memory"]

_COUNTERS = Path("/proc/vmstat")


def killed_for_memory() -> int:
    """How many processes this system has killed for want of memory so far, in any control group; 0 where unknown."""
    try:
        text = _COUNTERS.read_text()
    except OSError:
        return 0
    return int(text.partition("\noom_kill ")[2].partition("\n")[0] or 0)


@dataclass(slots=True)
class MemoryWatch:
    """Looked at now and then, it knows whether there has been such a kill since the look before the last one."""

    before: int = field(default_factory=killed_for_memory)
    last: int = field(default_factory=killed_for_memory)

    def look(self) -> None:
        """Take note of how things are now."""
        self.before, self.last = self.last, killed_for_memory()

    def explain(self, cause: str) -> str:
        """The cause of a death that was seen just now, with its reason where that was the want of memory."""
        if cause.endswith("SIGKILL") and killed_for_memory() > self.before:
            return f"{cause}, as its system ran out of memory"
        return cause
