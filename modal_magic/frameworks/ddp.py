"""The DistributedDataParallel objects of a rank: noted when they are made, and made again in place for a new group."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

__all__ = ["ModelBook"]


@dataclass(slots=True)
class Wrapped:
    """A DistributedDataParallel object that a cell made, with the arguments to make it again in place."""

    number: int
    reference: weakref.ref[DistributedDataParallel]
    arguments: dict[str, Any]


@dataclass(slots=True)
class ModelBook:
    """The objects that cells have made and may still have; `wraps` counts all that were ever made."""

    original: Callable[..., None] = DistributedDataParallel.__init__
    wrapped: list[Wrapped] = field(default_factory=list)
    wraps: int = 0

    def install(self) -> None:
        """Note each object that is made from here on.

        One with a process group of its own, or with positional arguments, is left to whoever makes it.
        """
        original = self.original

        @functools.wraps(original)
        def wrap(this: DistributedDataParallel, module: torch.nn.Module, *arguments: Any, **options: Any) -> None:
            original(this, module, *arguments, **options)
            self.wraps += 1
            if not arguments and options.get("process_group") is None:
                self.wrapped.append(Wrapped(self.wraps, weakref.ref(this), options))

        DistributedDataParallel.__init__ = wrap  # type: ignore[assignment, method-assign]

    def alive(self) -> bool:
        """Whether a cell still has one."""
        return any(item.reference() is not None for item in self.wrapped)

    def construct_again(self) -> None:
        """Have the DDP objects that every rank still holds use the new group, in the order in which they were made.

        Each DDP constructor is collective, so ranks first agree on which: a rank that was started anew has none. From
        here on all count alike, so that what is made next has one number on all of them.
        """
        # Held from here on: one that goes away on one rank while the others construct it would leave them waiting.
        living = {item.number: ddp for item in self.wrapped if (ddp := item.reference()) is not None}
        self.wrapped = [item for item in self.wrapped if item.number in living]
        count = torch.tensor(self.wraps)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        self.wraps = int(count)
        held = torch.zeros(self.wraps + 1, dtype=torch.uint8)
        for item in self.wrapped:
            held[item.number] = 1
        dist.all_reduce(held, dist.ReduceOp.MIN)
        for item in self.wrapped:
            if held[item.number]:
                ddp = living[item.number]
                self.original(ddp, ddp.module, **item.arguments)
