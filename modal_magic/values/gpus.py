"""GPUs as Modal names them: a type, a count, alternatives."""

from __future__ import annotations

import difflib
import re

from modal_magic.values.refused import Refused

__all__ = ["GPU_TYPES", "gpu", "gpu_count", "same_gpu"]

GPU_TYPES = (
    "T4", "L4", "A10", "A10G", "A100", "A100-40GB", "A100-80GB", "L40S", "H100", "H100!", "H200", "B200", "B200+",
    "B300", "RTX-PRO-6000", "any",
)  # fmt: skip


def gpu(value: object) -> str:
    """`TYPE` or `TYPE:COUNT`, the type written as Modal writes it; several, with commas, are alternatives."""
    if isinstance(value, str) and "," in value:
        kinds = [_one_gpu(kind) for kind in value.split(",")]
        if len({gpu_count(kind) for kind in kinds}) > 1:
            raise Refused("alternatives have the same number of GPUs", kinds[0])
        return ",".join(dict.fromkeys(kinds))
    return _one_gpu(value)


def _one_gpu(value: object) -> str:
    found = re.fullmatch(r"([A-Za-z0-9_+!-]+)(?::(\d{1,9}))?", value.strip()) if isinstance(value, str) else None
    if found is None:
        raise Refused("write TYPE or TYPE:COUNT", "H100:8")
    kinds = {kind.lower(): kind for kind in GPU_TYPES}
    kind, colon = found[1].lower(), f":{found[2]}" if found[2] else ""
    if kind not in kinds:
        near = difflib.get_close_matches(kind, kinds, n=1)
        reason = f"there is no GPU type {found[1]}; known are {', '.join(GPU_TYPES)}"
        raise Refused(reason, kinds[near[0]] + colon if near else None)
    if found[2] and not 1 <= int(found[2]) <= 8:
        raise Refused("a node has 1 to 8 GPUs", f"{kinds[kind]}:{min(max(int(found[2]), 1), 8)}")
    return f"{kinds[kind]}:{int(found[2])}" if found[2] else kinds[kind]


def gpu_count(gpu: str | None) -> int:
    """How many GPUs a parsed `gpu` is: 0 without one, 1 when it has no count."""
    return 0 if gpu is None else int(gpu.partition(",")[0].partition(":")[2] or 1)


def same_gpu(first: str | None, second: str | None) -> bool:
    """Whether two parsed `gpu`s ask for the same: `A100` and `A100:1` do."""
    kinds = [gpu and [kind.partition(":")[0] for kind in gpu.split(",")] for gpu in (first, second)]
    return kinds[0] == kinds[1] and gpu_count(first) == gpu_count(second)
