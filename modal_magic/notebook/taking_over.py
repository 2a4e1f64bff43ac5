"""Options of a line that goes to a session which is up: what the session takes over, and what it cannot any more."""

from __future__ import annotations

from collections.abc import Mapping

from modal_magic.notebook.notices import say
from modal_magic.options import OPTIONS, resolve
from modal_magic.protocol import Status
from modal_magic.reading import format_line
from modal_magic.sessions.session import Session

__all__ = ["LASTING", "limits_of", "say_what_only_cells_use", "settings_of", "take_over"]

LIMITS = ("lease", "idle", "max_lifetime")
"""What a session takes over at any time."""
AT_START = tuple(
    option.name
    for option in OPTIONS
    if option.scope == "session" and option.name not in (*LIMITS, "session", "restart", "end_with_kernel")
)
"""What it is told at its start only."""

LASTING = frozenset((*LIMITS, *AT_START, *(option.name for option in OPTIONS if option.scope == "shape")))
"""What makes another session like one."""


def settings_of(given: Mapping[str, object], backend: str) -> dict[str, object]:
    """The options of a line that are a session's own and no part of its shape; `idle` auto is what that stands for."""
    found = {name: given[name] for name in (*LIMITS, *AT_START) if name in given}
    if found.get("idle") == "auto":
        found["idle"] = resolve(found).idle_on(backend)
    return found


def limits_of(status: Status) -> dict[str, object]:
    """The limits of a session that another kernel has started."""
    left = status.lifetime_left
    lifetime = None if left is None else float(round(status.uptime + left))
    return {"lease": status.lease, "idle": status.idle, "max_lifetime": lifetime}


def take_over(session: Session, given: Mapping[str, object], known: Mapping[str, object]) -> dict[str, object]:
    """Have a session do from now on what a line asks for, and say so. `known` is what it does already, as far as known.

    Returns what is known then. Raises UsageError where the session refuses.
    """
    asked = settings_of(given, session.backend_name)
    new = {name: value for name, value in asked.items() if name not in known or known[name] != value}
    limits = {name: value for name, value in new.items() if name in LIMITS}
    if limits:
        session.set_limits(**limits)  # type: ignore[arg-type]
        say(f"{session.name}: {format_line(limits, OPTIONS)} from now on")
    late = {name: value for name, value in new.items() if name in AT_START}
    if late:
        say(
            f"{format_line(late, OPTIONS)} has no effect on {session.name}, which is up: %modal_stop {session.name}, "
            "then start it with that"
        )
    return {**known, **new}


def say_what_only_cells_use(given: Mapping[str, object]) -> None:
    """Say of a line without a cell which of its options did nothing."""
    unused = {option.name: given[option.name] for option in OPTIONS if option.scope == "run" and option.name in given}
    if line := format_line(unused, OPTIONS):
        say(f"{line} has no effect here: it is for cells, which begin with %%modal_distributed")
