"""The actor that stands for a rank where Monarch is measured: it runs text, as `%%modal_distributed` does."""

from __future__ import annotations

from typing import Any

from monarch.actor import Actor, endpoint

__all__ = ["Rank"]


class Rank(Actor):
    """A namespace in a process of its own."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}

    @endpoint
    def run(self, source: str) -> None:
        """Run the text of a cell."""
        exec(compile(source, "cell", "exec"), self.names)
