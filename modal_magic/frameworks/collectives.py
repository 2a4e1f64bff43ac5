"""Which call of torch.distributed a stack is in, told by its frames: no torch is needed, and nothing is slowed down.

A rank waits for others inside such a call for as long as its function is on the stack. What wraps the calls would know
no more, and the flight recorder of torch knows less: with gloo it notes that a collective began, never that it ended.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

__all__ = ["BACKWARD", "Collective", "find_call"]

BACKWARD = "backward (DDP)"
"""The name of a backward pass in which DDP joins gradients: it waits for the other ranks in C++."""

CALLS = re.compile(
    r"all_|barrier|broadcast|gather|monitored_barrier|reduce|scatter|send|recv|wait_tensor"
    r"|new_group|new_subgroups|split_group|init_process_group|destroy_process_group"
)
"""How the functions of torch begin whose callers may have to wait for other ranks."""
DISTRIBUTED = ("torch/distributed/distributed_c10d.py", "torch/distributed/_functional_collectives.py")
NAMES = {
    ("modal_magic/frameworks/torch.py", "init_process_group"): "init_process_group",
    ("modal_magic/frameworks/torch.py", "_gather"): "init_process_group",
    ("modal_magic/frameworks/torch.py", "new_group"): "new_group",
    ("modal_magic/frameworks/torch.py", "destroy_process_group"): "destroy_process_group",
    ("modal_magic/frameworks/torch.py", "wrap"): "DistributedDataParallel()",
    ("torch/nn/parallel/distributed.py", "_pre_forward"): "forward (DDP)",
}
"""Functions that wait for other ranks under another name than their own."""


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
    if frames and _is(frames[-1], "torch/autograd/graph.py") and frames[-1].f_code.co_name == "_engine_run_backward":
        return BACKWARD, frames[-1]
    return None


def _is(frame: FrameType, *files: str) -> bool:
    return frame.f_code.co_filename.endswith(files)


def _name(frame: FrameType) -> str:
    function = frame.f_code.co_name
    if CALLS.match(function) and _is(frame, *DISTRIBUTED):
        return function
    for (file, other), name in NAMES.items():
        if function == other and _is(frame, file):
            return name
    return ""
