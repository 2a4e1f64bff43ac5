"""The options of each magic, as data: those of a cell, and the few that the other magics have."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from modal_magic import values as v
from modal_magic.options import OPTIONS
from modal_magic.reading import Option

__all__ = [
    "ATTACH_OPTIONS", "INTERRUPT_OPTIONS", "LOGS_OPTIONS", "POSITIONALS", "RESTART_OPTIONS", "SESSION", "STACK_OPTIONS",
    "STATUS_OPTIONS", "STOP_OPTIONS", "TABLES",
]  # fmt: skip

SESSION = next(one for one in OPTIONS if one.name == "session")
STATUS_OPTIONS = (SESSION,)
RESTART_OPTIONS = (
    Option(
        name="rank", short="--ranks", help="start these ranks anew; the others keep their variables", parse=v.ranks,
        write=v.write_ranks, nullable=True, absent="all", metavar="RANKS", example="2", suggestions=("all",),
    ),
    SESSION,
)  # fmt: skip
INTERRUPT_OPTIONS = (SESSION,)
ATTACH_OPTIONS = (SESSION,)
LOGS_OPTIONS = (
    Option(
        name="rank", short="--ranks", help="show the log of these ranks only", parse=v.ranks, write=v.write_ranks,
        nullable=True, absent="all", metavar="RANKS", example="0,2-3", suggestions=("all",),
    ),
    Option(
        name="last", help="show the last lines only", parse=v.whole("a log has 1 to 1000000 lines", 1, 1_000_000),
        nullable=True, metavar="N", example="50",
    ),
    Option(
        name="file", help="write all lines to this file instead of showing the newest", parse=v.path, metavar="PATH",
        example="run.log",
    ),
    SESSION,
)  # fmt: skip
STACK_OPTIONS = (
    Option(
        name="rank", help="show these ranks only", parse=v.ranks, write=v.write_ranks, nullable=True, absent="all",
        metavar="RANKS", example="0,2-3", suggestions=("all",),
    ),
    Option(name="all_frames", help="show the whole stack of each rank", parse=v.switch, default=False, switch=True),
    SESSION,
)  # fmt: skip
STOP_OPTIONS = (
    Option(name="all", help="stop every session", parse=v.switch, default=False, switch=True),
    Option(
        name="apps", help="with --all: also remove the apps on Modal that no container runs of", parse=v.switch,
        default=False, switch=True,
    ),
    SESSION,
)  # fmt: skip
TABLES: Mapping[str, tuple[Option, ...]] = MappingProxyType(
    {
        "modal_distributed": OPTIONS,
        "modal_attach": ATTACH_OPTIONS,
        "modal_status": STATUS_OPTIONS,
        "modal_logs": LOGS_OPTIONS,
        "modal_interrupt": INTERRUPT_OPTIONS,
        "modal_stack": STACK_OPTIONS,
        "modal_restart": RESTART_OPTIONS,
        "modal_stop": STOP_OPTIONS,
    }
)
"""The options of each magic, by its name without %."""

POSITIONALS: Mapping[str, str] = MappingProxyType({"modal_attach": "session", "modal_stop": "session"})
"""The option that a magic also takes as a bare word: `%modal_stop train-1`."""
