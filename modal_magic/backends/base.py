"""The seam of the backends: what a session asks of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from modal_magic.containers import Containers
from modal_magic.link import Keys

__all__ = ["Backend", "Plan", "Reached"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The session that is wanted. Times are in seconds, `log_limit` is in bytes; `environment` is `--env`."""

    session: str
    nodes: int
    ranks_per_node: int
    gpu: str | None
    framework: str
    environment: dict[str, str]
    lease: float
    log_limit: int = 1_000_000_000
    idle: float | None = None
    max_lifetime: float | None = None
    containers: Containers = field(default_factory=Containers)
    link: str = "auto"


@dataclass(frozen=True, slots=True)
class Reached:
    """Where the gateway of a new session listens, its public key, and the key pair that it admits clients with.

    `notice` is what the user should know of the start.
    """

    host: str
    port: int
    gateway_key: str
    client_keys: Keys
    pid: int
    notice: str = ""


class Backend(Protocol):
    """Makes the nodes and the gateway of sessions."""

    name: str

    def prepare(self) -> None:
        """Do in the background what the next session can be spared. Returns at once; safe to call at any time."""

    def start(self, plan: Plan) -> Reached:
        """Start gateway and agents of a session whose folder is there.

        Returns once the gateway can be reached, before the ranks are up.

        Raises SessionError when that fails; then nothing is left behind.
        """

    def finish(self, session: str, seconds: float) -> bool:
        """Wait until nothing is left of a session that was told to stop. Whether that is so."""

    def close(self) -> None:
        """Let go of what `prepare` made and no session took."""
