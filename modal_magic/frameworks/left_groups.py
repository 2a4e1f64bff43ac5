"""The process groups that a rank has left: let go of when that is safe, and not kept by models that are garbage."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from modal_magic.frameworks.threads import let_threads_finish

__all__ = ["LINGERING", "LeftGroups"]

GLOO_THREADS = "pt_gloo_runloop"
"""The threads in which gloo's groups do their collectives, as the system names them."""
LINGERING = 2
"""So many groups that were left may be kept by models and tracebacks that are garbage. Each has threads and sockets."""


@dataclass(slots=True)
class LeftGroups:
    """`retired` are groups that were destroyed a moment ago, `left` all that somebody may still have.

    `lingering` is how many of these even a collection of garbage has left.
    """

    retired: list[Any] = field(default_factory=list)
    left: list[weakref.ref[Any]] = field(default_factory=list)
    lingering: int = 0

    def leave(self, groups: Iterable[Any]) -> None:
        """These are about to be destroyed."""
        for group in groups:
            self.retired.append(group)
            self.left.append(weakref.ref(group))

    def bury(self) -> None:
        """Let go of the groups that were destroyed a while ago.

        Not at once: ~ProcessGroupGloo joins its threads with the GIL held, and a thread that has just finished a
        collective needs the GIL to drop its tensors (torch 2.13: a script that destroys its group right after a
        backward hangs now and then). So such a thread is let have it first.
        """
        if not self.retired:
            return
        let_threads_finish(GLOO_THREADS)
        self.retired.clear()
        self._count_lingering()
        if len(self.left) > self.lingering + LINGERING:
            gc.collect()  # models refer to themselves, and so to the group that they were made for
            self._count_lingering()
            self.lingering = len(self.left)

    def _count_lingering(self) -> None:
        """Forget the groups that nobody has any more."""
        self.left = [group for group in self.left if group() is not None]
        self.lingering = min(self.lingering, len(self.left))
