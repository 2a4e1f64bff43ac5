"""The seam of the frameworks: what a worker asks of one, and how it is found by its name."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from modal_magic.frameworks.collectives import Collective
from modal_magic.protocol import ErrorKind, Health, Store

if TYPE_CHECKING:
    from modal_magic.specs import WorkerSpec

__all__ = ["Framework", "open_store", "prepare"]

ROOMS = {"torch": "modal_magic.frameworks.torch", "none": "modal_magic.frameworks.plain"}


class Framework(Protocol):
    """What runs in a worker for a framework.

    The main thread calls all of it but `supersede`, `sever` and `collective`.
    """

    device: str

    def reseed(self) -> None:
        """Give this rank random numbers of its own: forked processes draw the same ones otherwise."""

    def join(self, generation: int, together: bool) -> None:
        """Be in the process group of this generation, or in none where the ranks are not all `together`.

        Raises Superseded when a newer one is called for meanwhile.
        """

    def supersede(self, generation: int) -> None:
        """Let go of a `join` of an older generation that still waits."""

    def begin(self, run: str) -> None:
        """A cell begins."""

    def health(self) -> Health:
        """What this rank knows of its process groups."""

    def namespace(self) -> dict[str, Any]:
        """What a cell finds under a name: `rank`, `device` …"""

    def kind_of(self, error: BaseException) -> ErrorKind:
        """Whether an exception says that another rank is gone, or is one of the cell's own."""

    def advice(self, error: BaseException) -> str:
        """What the user should know of an error of the cell beside its own text, as a clause; empty mostly."""

    def sever(self) -> None:
        """Cut the connections of the process groups, so that a rank that waits in one comes back."""

    def collective(self, frames: Sequence[FrameType]) -> Collective:
        """The collective that a stack of the main thread is in, outermost frame first. Called by any thread."""


class Superseded(Exception):
    """A newer generation of the process group has been called for."""


def prepare(spec: WorkerSpec) -> Framework:
    """The framework of a worker. Raises ModuleNotFoundError where it is not installed."""
    make: Callable[[WorkerSpec], Framework] = importlib.import_module(ROOMS[spec.framework]).prepare
    return make(spec)


def open_store(framework: str, host: str, session: str) -> contextlib.AbstractContextManager[Store | None]:
    """What ranks of this framework meet at, served by this process while the context lasts; None if there is none."""
    found: contextlib.AbstractContextManager[Store | None]
    found = importlib.import_module(ROOMS[framework]).open_store(host, session)
    return found
