"""`--framework none`: ranks with torchrun's environment and no process group."""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from modal_magic.frameworks.collectives import BACKWARD, Collective, find_call
from modal_magic.protocol import ErrorKind, Health
from modal_magic.specs import WorkerSpec

__all__ = ["Plain", "open_store", "prepare", "reseed_python"]


def reseed_python() -> None:
    """Seed the generators of Python and, where it is imported, numpy from the system's entropy."""
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(int.from_bytes(os.urandom(4), "little"))


@dataclass(slots=True)
class Plain:
    """A rank without a process group: every `join` succeeds at once."""

    spec: WorkerSpec
    device: str = "cpu"

    def reseed(self) -> None:
        """See `Framework`."""
        reseed_python()

    def join(self, generation: int, together: bool) -> None:
        """See `Framework`."""

    def supersede(self, generation: int) -> None:
        """See `Framework`."""

    def begin(self, run: str) -> None:
        """See `Framework`."""

    def health(self) -> Health:
        """See `Framework`."""
        return Health()

    def namespace(self) -> dict[str, Any]:
        """See `Framework`."""
        return {"device": self.device}

    def kind_of(self, error: BaseException) -> ErrorKind:
        """See `Framework`."""
        return "exception"

    def advice(self, error: BaseException) -> str:
        """See `Framework`."""
        return ""

    def sever(self) -> None:
        """See `Framework`."""

    def collective(self, frames: Sequence[FrameType]) -> Collective:
        """See `Framework`. A script may have a process group of its own."""
        name, _ = find_call(frames) or ("", None)
        return Collective("" if name == BACKWARD else name)


def prepare(spec: WorkerSpec) -> Plain:
    """A worker's framework."""
    return Plain(spec, spec.place.device)


def open_store(host: str, session: str) -> contextlib.AbstractContextManager[None]:
    """Nothing to meet at."""
    return contextlib.nullcontext()
