"""The seam of the backends: what a session asks of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from modal_magic.containers import Containers
from modal_magic.links.link import Keys

__all__ = ["Backend", "Deployed", "Plan", "Reached"]


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
    log_limit: int
    idle: float | None = None
    max_lifetime: float | None = None
    containers: Containers = field(default_factory=Containers)
    link: str = "auto"


@dataclass(frozen=True, slots=True)
class Reached:
    """Where the gateway of a new session listens, its public key, and the key pair that it admits clients with.

    `notice` is what the user should know of the start. `meeting` is where `finish` learns what the session has left
    behind, empty where it need not look.
    """

    host: str
    port: int
    gateway_key: str
    client_keys: Keys
    pid: int
    notice: str = ""
    meeting: str = ""


@dataclass(frozen=True, slots=True)
class Deployed:
    """An app of ours that is deployed where containers run, and how many it has now."""

    name: str
    containers: int


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

    def finish(self, session: str, seconds: float, meeting: str = "") -> bool:
        """Wait until nothing is left of a session that was told to stop. Whether that is so.

        Raises SessionError, of a clause about the session, where it is known what is left, or cannot be known.
        """

    def rejoin(self, session: str) -> str:
        """Start again what leads to the gateway of a session and is a process of this machine, where it was lost.

        Takes a second then, and may lead elsewhere: the connection file says where. Returns the sentence for it, empty
        where nothing was to be done.
        """

    def apps(self, remove_idle: bool) -> list[Deployed]:
        """The apps that are deployed, or those without containers, which are removed.

        Raises SessionError where that cannot be known.
        """

    def close(self) -> None:
        """Let go of what `prepare` made and no session took."""
