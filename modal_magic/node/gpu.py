"""The GPU of a rank: how busy it is and how full, as NVIDIA's library tells where nvidia-ml-py is installed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

__all__ = ["Gpu", "find_gpu"]

Used = tuple[int | None, int | None, int | None]
"""Percent of time in which a kernel ran, bytes in use, bytes in all: of the whole device, whoever uses it."""


@functools.cache
def library() -> ModuleType | None:
    """`pynvml`, begun; None without it, or without a driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # its errors are its own, and each means that there is nothing to measure
        return None
    found: ModuleType = pynvml
    return found


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device."""

    nvml: Any
    handle: object

    def read(self) -> Used:
        """What it tells now. What it does not tell, as some virtual ones, is None."""
        busy, used, total = None, None, None
        with contextlib.suppress(self.nvml.NVMLError):
            busy = int(self.nvml.nvmlDeviceGetUtilizationRates(self.handle).gpu)
        with contextlib.suppress(self.nvml.NVMLError):
            memory = self.nvml.nvmlDeviceGetMemoryInfo(self.handle)
            used, total = int(memory.used), int(memory.total)
        return busy, used, total


def find_gpu(environment: Mapping[str, str]) -> Gpu | None:
    """The device that is `cuda:<local rank>` in a process of this environment, None where there is none.

    `CUDA_VISIBLE_DEVICES` names devices by number or by UUID; a number counts as nvidia-smi counts.
    """
    nvml = library()
    if nvml is None:
        return None
    number = int(environment.get("LOCAL_RANK", "0"))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in visible.split(",")] if visible is not None else None
    if names is not None and number >= len(names):
        return None
    name = names[number] if names is not None else str(number)
    try:
        if name.isdecimal():
            return Gpu(nvml, nvml.nvmlDeviceGetHandleByIndex(int(name)))
        return Gpu(nvml, nvml.nvmlDeviceGetHandleByUUID(name)) if name else None
    except nvml.NVMLError:
        return None
