"""Where the parts of a session on Modal meet before they have a link: a `modal.Dict`, with keys of their own.

Values are bytes that are encoded and checked as messages are. One Dict serves all sessions; Modal forgets an entry
that nobody has touched for seven days.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import modal
import msgspec

from modal_magic.protocol import Part
from modal_magic.specs import AgentSpec, GatewaySpec

__all__ = ["GATEWAY", "Calls", "GatewayAt", "Left", "Meeting", "NodeAt", "Ticket"]

DICT_NAME = "modal-magic"
GATEWAY = -1
"""The number under which the gateway's container arrives."""
POLL_SECONDS = 0.1
MOST_POLL_SECONDS = 2.0

Found = TypeVar("Found", bound=Part)


class Ticket(Part):
    """What the containers of a session must know; each fills in what only it can: its address and folder.

    `link` says by which ways clients may come: `tunnel`, `queue`, or `auto` for both. `volumes` are the names of those
    that nodes have, and `snapshot` is what they start from.
    """

    gateway: GatewaySpec
    agent: AgentSpec
    patience: float
    link: str
    snapshot: str = "off"
    volumes: list[str] = msgspec.field(default_factory=list)


class GatewayAt(Part):
    """Where the gateway is: for nodes its address and port, for clients the tunnel's, empty where there is none."""

    address: str
    node_port: int
    client_host: str
    client_port: int


class NodeAt(Part):
    """Where a node is, and in which container."""

    address: str
    container: str


class Calls(Part):
    """The calls of a session, by their ids on Modal, which must not outlive it. They make `expected` nodes."""

    gateway: str
    nodes: list[str]
    expected: int


class Left(Part):
    """How often a node has come, whose container is taken away now."""

    generation: int


class Meeting:
    """The entries of one session. Calls block; all raise modal.exception.Error where Modal cannot be reached."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._dict = modal.Dict.from_name(DICT_NAME, create_if_missing=True)

    def put(self, name: str, value: Part) -> None:
        """Write an entry."""
        self._dict.put(f"{self.key}/{name}", msgspec.msgpack.encode(value))

    def get(self, name: str, kind: type[Found]) -> Found | None:
        """Read an entry, None if it is not there. Raises msgspec.ValidationError for what `put` did not write."""
        data = self._dict.get(f"{self.key}/{name}")
        return None if data is None else msgspec.msgpack.decode(data, type=kind)

    def wait(self, name: str, kind: type[Found], seconds: float, give_up: Callable[[], bool]) -> Found | None:
        """Read an entry that is to come. None after so many seconds, or as soon as `give_up` says so."""
        until, pause = time.monotonic() + seconds, POLL_SECONDS
        while (found := self.get(name, kind)) is None:
            if time.monotonic() > until or give_up():
                return None
            time.sleep(pause)
            pause = min(pause * 1.2, MOST_POLL_SECONDS)
        return found

    def arrive(self, node_rank: int, node: NodeAt) -> int:
        """Write where a node is now. Returns how often it has come: 1, or more after it was preempted."""
        generation = 1
        while not self._dict.put(
            f"{self.key}/{generation}/node/{node_rank}", msgspec.msgpack.encode(node), skip_if_exists=True
        ):
            generation += 1
        return generation

    def containers(self) -> set[str]:
        """Every container that has arrived, the gateway's and those that were lost since too."""
        calls = self.get("calls", Calls)
        found: set[str] = set()
        for node_rank in range(GATEWAY, calls.expected if calls is not None else 0):
            generation = 1
            while (at := self.get(f"{generation}/node/{node_rank}", NodeAt)) is not None:
                found.add(at.container)
                generation += 1
        return found

    def everyones_containers(self) -> set[str]:
        """The same for all sessions of this account's environment."""
        return {
            msgspec.msgpack.decode(data, type=NodeAt).container
            for name, data in self._dict.items()
            if name.rpartition("/")[0].endswith("/node")
        }

    def leave(self, node_rank: int, generation: int) -> None:
        """Write that a node which has come so often goes now, and is to come again."""
        self.put(f"left/{node_rank}", Left(generation))

    def missing(self, nodes: int) -> list[int]:
        """Which of so many nodes have not arrived yet, or not again since they left."""
        return [node_rank for node_rank in range(nodes) if not self._is_there(node_rank)]

    def _is_there(self, node_rank: int) -> bool:
        left = self.get(f"left/{node_rank}", Left)
        return self.get(f"{left.generation + 1 if left is not None else 1}/node/{node_rank}", NodeAt) is not None

    def end(self, reason: str) -> None:
        """The session is over. Its keys are forgotten, and a container that comes late will know."""
        self._dict.put(f"{self.key}/over", reason)
        for name in ("ticket", "gateway"):
            self._dict.pop(f"{self.key}/{name}", None)

    def over(self) -> bool:
        """Whether the session has ended."""
        return bool(self._dict.contains(f"{self.key}/over"))

    async def is_over(self) -> bool:
        """The same, for an event loop."""
        return bool(await self._dict.contains.aio(f"{self.key}/over"))
