"""Of which group a call of torch.distributed is, which number it has there, and which ranks must enter it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from modal_magic.frameworks.collectives import BACKWARD, WAIT, Collective, find_call
from modal_magic.frameworks.works import Issued, WorkBook
from modal_magic.protocol import ASYNC
from modal_magic.ranges import name_ranks

__all__ = ["call_of"]

UNCOUNTED = ("init_", "new_", "split_", "destroy_", "Distributed", "forward")
"""How the calls begin that are no collective of a group, or several: no number tells them apart."""


def call_of(
    frames: Sequence[FrameType], works: WorkBook, has_models: Callable[[], bool], world_size: int
) -> Collective:
    """The call that a stack is in. Which group it is, is among its arguments, or was noted when it was issued.

    A backward pass is one only where there are DDP models. May be called while the thread of the stack goes on.
    """
    name, frame = find_call(frames) or ("", None)
    if name == BACKWARD and not has_models():
        name = ""
    try:
        arguments = frame.f_locals if frame is not None and name else {}
        if name == WAIT:
            return _of_work(works.issued.get(arguments["work"]), world_size)
        return _with_group(name, arguments, world_size)
    except Exception:  # the main thread goes on meanwhile, and may be leaving the group
        return Collective(name)


def _with_group(name: str, arguments: Mapping[str, Any], world_size: int) -> Collective:
    default, given = c10d._world.default_pg, arguments.get("group")
    group = given if isinstance(given, dist.ProcessGroup) else default
    if group is None:
        return Collective(name)
    size = dist.get_world_size()
    everyone = () if size == world_size else tuple(range(size))
    if name.startswith(UNCOUNTED):
        return Collective(name, "", 0, everyone)
    sequence = group._get_sequence_number_for_group()  # type: ignore[attr-defined]
    if name.startswith(("send", "recv")):
        return _with_peer(name, group, sequence, _peer_among(arguments, group))
    if group is default:
        return Collective(name, "default group", sequence, everyone)
    members = tuple(c10d._world.pg_group_ranks[group])
    return Collective(name, f"group of {name_ranks(members)}", sequence, members)


def _of_work(issued: Issued | None, world_size: int) -> Collective:
    """What a rank waits for that waits for a piece of work. Its number is that of the work, not of the newest."""
    group = issued.group() if issued is not None else None
    if issued is None or group is None:
        return Collective(WAIT)
    if issued.name in ("isend", "irecv"):
        other = dist.get_global_rank(group, issued.peer) if issued.peer is not None else None
        return _with_peer(issued.name, group, issued.sequence, other)
    found = _with_group(issued.name + ASYNC, {"group": group}, world_size)
    return dataclasses.replace(found, sequence=issued.sequence)


def _peer_among(arguments: Mapping[str, Any], group: dist.ProcessGroup) -> int | None:
    """The rank that a send or recv names, None where it names none.

    By its number in the group or in the world: torch's `send` turns the one into the other, its `recv` does not.
    """
    for name in ("group_dst", "group_src"):
        if isinstance(peer := arguments.get(name), int):
            return dist.get_global_rank(group, peer)
    return next((peer for name in ("dst", "src") if isinstance(peer := arguments.get(name), int)), None)


def _with_peer(name: str, group: dist.ProcessGroup, sequence: int, other: int | None) -> Collective:
    """A send or recv; `other` is the rank that it names, None for a recv from whoever sends."""
    own, towards = dist.get_rank(), "to" if "send" in name else "from"
    if other is None:
        return Collective(name, f"{towards} any rank", sequence, (own,))
    return Collective(name, f"{towards} rank {other}", sequence, tuple(sorted({own, other})))
