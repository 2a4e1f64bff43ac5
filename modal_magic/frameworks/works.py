"""Which call a piece of asynchronous work came from: a stack that is in `work.wait()` does not tell, so it is noted."""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch.distributed import ProcessGroup, Work

from modal_magic.frameworks.collectives import DISTRIBUTED

__all__ = ["Issued", "WorkBook"]

COLLECTIVES = (
    "allreduce",
    "allreduce_coalesced",
    "broadcast",
    "reduce",
    "allgather",
    "_allgather_base",
    "allgather_coalesced",
    "gather",
    "scatter",
    "allgather_into_tensor_coalesced",
    "reduce_scatter",
    "_reduce_scatter_base",
    "reduce_scatter_tensor_coalesced",
    "alltoall",
    "alltoall_base",
    "barrier",
    "all_gather_single",
    "all_gather_single_coalesced",
    "reduce_scatter_single",
    "reduce_scatter_single_coalesced",
    "all_to_all_single",
)
POINT_TO_POINT = ("send", "recv", "recv_anysource")
"""The methods of a process group that begin a piece of work, in all versions of torch."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A call that a piece of work came from: its name as people know it, its group, and the group's count after it.

    `peer` is the rank of the group that a send or recv names, None where there is none.
    """

    name: str
    group: weakref.ref[ProcessGroup]
    sequence: int
    peer: int | None


@dataclass(slots=True)
class WorkBook:
    """The pieces of work that somebody still holds. Noting one costs some 2 µs.

    The methods of torch's class are wrapped, not its functions: whoever has imported a function has the same one.
    """

    issued: weakref.WeakKeyDictionary[Work, Issued] = field(default_factory=weakref.WeakKeyDictionary)

    def install(self) -> None:
        """Put the wrappers in the place of torch's methods."""
        for name in (*COLLECTIVES, *POINT_TO_POINT):
            if (original := getattr(ProcessGroup, name, None)) is not None:
                setattr(ProcessGroup, name, self._noting(original, name in POINT_TO_POINT[:2]))
        original_wait = Work.wait

        @functools.wraps(original_wait)
        def wait(work: Work, *arguments: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            return original_wait(work, *arguments, **options)

        Work.wait = wait  # type: ignore[assignment]

    def _noting(self, original: Callable[..., Any], has_peer: bool) -> Callable[..., Any]:
        issued = self.issued

        @functools.wraps(original)
        def issue(group: ProcessGroup, *arguments: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            work = original(group, *arguments, **options)
            if isinstance(work, Work):
                sequence = group._get_sequence_number_for_group()  # type: ignore[attr-defined]
                peer = arguments[1] if has_peer and len(arguments) > 1 else None
                caller = sys._getframe(1).f_code
                name = caller.co_name if caller.co_filename.endswith(DISTRIBUTED) else original.__name__
                issued[work] = Issued(name, weakref.ref(group), sequence, peer)
            return work

        return issue
