"""The shell of the rank that this process is, for what a cell calls of ours. Nothing is loaded to find it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modal_magic.node.shell import RankShell

__all__ = ["rank_shell"]


def rank_shell() -> RankShell | None:
    """The shell that runs the cells of this rank; None off a rank."""
    room = sys.modules.get("modal_magic.node.shell")
    if room is None or not room.RankShell.initialized():
        return None
    shell: RankShell = room.RankShell.instance()
    return shell
