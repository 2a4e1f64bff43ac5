"""How long a session lives: with no kernel attached, without a run, and at most; and when its user is warned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.state.words import SetTimer
from modal_magic.values import write_duration

__all__ = ["WARNING_SECONDS", "Lease", "warning_seconds"]

WARNING_SECONDS = 300.0
"""How long before its end a session warns those who are attached."""


CLOCKS = {
    "lease": {"lease"},
    "idle": {"idle", "idle warning"},
    "max_lifetime": {"lifetime", "lifetime warning"},
}
"""The timers of each limit."""


def warning_seconds(limit: float) -> float:
    """How long before its end a session with this limit warns: a sixth of it, and at most `WARNING_SECONDS`."""
    return min(WARNING_SECONDS, limit / 6)


@dataclass(slots=True)
class Lease:
    """The clocks of one session, in seconds; `idle` and `max_lifetime` are None where there is no such limit.

    `lease` runs while nobody is attached and nothing runs, `idle` while nothing runs, `max_lifetime` always.
    """

    lease: float
    idle: float | None
    max_lifetime: float | None
    running: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    lived: float = 0.0

    def change(self, limits: Mapping[str, float | None], uptime: float) -> str:
        """Have other limits from now on; why that cannot be, if so. A longest life counts from the session's start."""
        for name, limit in limits.items():
            if name not in CLOCKS or (limit is None and name == "lease"):
                return f"a session has no limit {name!r}" if name not in CLOCKS else "a session has a lease"
            if name == "max_lifetime" and limit is not None and limit <= uptime:
                return (
                    f"the session is up for {_written(uptime)} already: --max-lifetime can only be longer, and "
                    "%modal_stop ends the session now"
                )
        for name, limit in limits.items():
            if getattr(self, name) != limit:
                setattr(self, name, limit)
                self.changed |= CLOCKS[name]
                self.lived = uptime if name == "max_lifetime" else self.lived
        return ""

    def settle(self, attended: bool, busy: bool, up: bool) -> list[SetTimer]:
        """The timers to set and to take back, now that the session is like this."""
        wanted: dict[str, float] = {}
        if not attended and not busy:
            wanted["lease"] = self.lease
        if self.idle is not None and up and not busy:
            wanted |= {"idle": self.idle, "idle warning": self.idle - warning_seconds(self.idle)}
        if self.max_lifetime is not None:
            left = self.max_lifetime - self.lived
            wanted |= {"lifetime": left, "lifetime warning": max(0.0, left - warning_seconds(self.max_lifetime))}
        changes = [SetTimer(timer, wanted[timer]) for timer in wanted if timer not in self.running - self.changed]
        changes += [SetTimer(timer, None) for timer in sorted(self.running - wanted.keys())]
        self.running, self.changed = set(wanted), set()
        return changes

    def fired(self, timer: str) -> str | p.Notice | None:
        """What follows from a timer that ran out: the reason why the session ends, a warning, or nothing."""
        if timer not in self.running:
            return None
        if timer == "lease":
            return f"it had no kernel attached and no run for {write_duration(self.lease)} (--lease)"
        limit = (self.max_lifetime if timer.startswith("lifetime") else self.idle) or 0.0
        rest, whole = _written(warning_seconds(limit)), write_duration(limit)
        match timer:
            case "idle":
                return f"it had no run for {whole} (--idle)"
            case "lifetime":
                return f"its longest time to live, {whole}, is over (--max-lifetime)"
            case "idle warning":
                told = f"ends in {rest} unless a cell runs: it had none for {_written(limit - warning_seconds(limit))}"
                return p.Notice(f"this session {told} (--idle {whole})")
            case _:
                rest = _written(min(warning_seconds(limit), limit - self.lived))
                told = f"ends in {rest}, also while a cell runs: save what is to be kept"
                return p.Notice(f"this session {told} (--max-lifetime {whole})")


def _written(seconds: float) -> str:
    return write_duration(round(seconds) if seconds >= 10 else round(seconds, 1))
