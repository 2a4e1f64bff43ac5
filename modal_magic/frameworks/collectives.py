"""Which call of torch.distributed a stack is in, told by its frames: no torch is needed, and nothing is slowed down.

A rank waits for others inside such a call for as long as its function is on the stack; of an asynchronous call, as long
as `wait` of its work is (`works`). The flight recorder of torch knows less: with gloo it notes that a collective began,
never that it ended.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

__all__ = ["BACKWARD", "DISTRIBUTED", "WAIT", "Collective", "find_call"]

BACKWARD = "backward (DDP)"
"""The name of a backward pass in which DDP joins gradients: it waits for the other ranks in C++."""

WAIT = "work.wait()"
"""The name of a wait for asynchronous work of which nobody knows the call."""
CALLS = re.compile(
    r"all_|barrier|broadcast|gather|monitored_barrier|reduce|scatter|send|recv|wait_tensor"
    r"|new_group|new_subgroups|split_group|init_process_group|destroy_process_group"
)
"""How the functions of torch begin whose callers may have to wait for other ranks."""
DISTRIBUTED = ("torch/distributed/distributed_c10d.py", "torch/distributed/_functional_collectives.py")
OURS = "modal_magic/frameworks/torch.py"
NAMES = {
    "init_process_group": (OURS, "init_process_group"),
    "gather_ranks": ("modal_magic/frameworks/store.py", "init_process_group"),
    "new_group": (OURS, "new_group"),
    "destroy_process_group": (OURS, "destroy_process_group"),
    "wrap": ("modal_magic/frameworks/ddp.py", "DistributedDataParallel()"),
    "wait": ("modal_magic/frameworks/works.py", WAIT),
    "_pre_forward": ("torch/nn/parallel/distributed.py", "forward (DDP)"),
}
"""Other functions that wait for ranks: the file of each, and what people call it."""


@dataclass(frozen=True, slots=True)
class Collective:
    """A call of torch.distributed (`name` is empty: none), its group, and how many collectives that group has issued.

    `members` are the ranks that must enter the call, where these are not all ranks.
    """

    name: str = ""
    group: str = ""
    sequence: int = 0
    members: tuple[int, ...] = ()


def find_call(frames: Sequence[FrameType]) -> tuple[str, FrameType] | None:
    """The outermost call that may wait for other ranks, as people name it, and its frame. Frames go outermost first."""
    for frame in frames:
        if name := _name(frame):
            return name, frame
    if frames and frames[-1].f_code.co_name == "_engine_run_backward":
        return BACKWARD, frames[-1]
    return None


def _name(frame: FrameType) -> str:
    function, file = frame.f_code.co_name, frame.f_code.co_filename
    if CALLS.match(function) and file.endswith(DISTRIBUTED):
        return function
    place, name = NAMES.get(function, ("", ""))
    return name if name and file.endswith(place) else ""
