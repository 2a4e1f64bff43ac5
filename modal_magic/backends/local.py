"""The local backend: nodes are simulated on this machine by processes that a zygote forks (Linux and macOS)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from modal_magic import registry
from modal_magic.backends.base import Deployed, Plan, Reached
from modal_magic.backends.specifications import make_session_keys, specifications
from modal_magic.backends.zygotes import Zygote, await_ready, read_at_import, spawn
from modal_magic.errors import SessionError
from modal_magic.protocol import Stage
from modal_magic.specs import GatewayUp, Settled, StartAgent, StartGateway, Take, Unable

__all__ = ["Host", "LocalBackend"]


@dataclass(frozen=True, slots=True)
class Host:
    """Where the nodes of a session run: an address, and what stands before a command that is to run there.

    The machine itself has no prefix. In a network namespace of Linux it is `ip netns exec NAME`.
    """

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


class LocalBackend:
    """Makes sessions of processes on this machine. Keeps one zygote warm for the next session.

    A class because a process must be closed. `hosts` share the nodes evenly; the gateway runs on the first.
    """

    name = "local"

    def __init__(self, hosts: tuple[Host, ...] = (Host(),)) -> None:
        self._hosts = hosts
        self._warm: list[Zygote] | None = None
        self._serving: dict[str, list[Zygote]] = {}
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """See `Backend`: starts a zygote that imports torch, and lets go of those whose sessions have ended."""
        for session, zygotes in list(self._serving.items()):
            if all(zygote.process.poll() is not None for zygote in zygotes):
                self.finish(session, 0.0)
        with self._lock:
            if self._warm is None:
                self._warm = [spawn(dict(os.environ), host.prefix) for host in self._hosts]

    def start(self, plan: Plan) -> Reached:
        """See `Backend`."""
        folder = registry.folder_of(plan.session)
        zygotes = self._take(os.environ | plan.environment)
        try:
            reached = self._start_session(plan, folder, zygotes)
        except BaseException as error:
            for zygote in zygotes:
                zygote.let_go()
            if isinstance(error, SessionError) or not isinstance(error, Exception):  # an interrupt stays one
                raise
            raise SessionError(f"the session could not be started: {type(error).__name__}: {error}") from error
        self._serving[plan.session] = zygotes
        return reached

    def finish(self, session: str, seconds: float, meeting: str = "") -> bool:
        """See `Backend`. A session that another kernel started is gone when its folder is."""
        until = time.monotonic() + seconds
        zygotes = self._serving.pop(session, [])
        for zygote in zygotes:
            zygote.let_go()
        try:
            for zygote in zygotes:
                zygote.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        while registry.folder_of(session).exists():
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        return True

    def rejoin(self, session: str) -> str:
        """See `Backend`: nothing stands between a client and a gateway of this machine."""
        return ""

    def apps(self, remove_idle: bool) -> list[Deployed]:
        """See `Backend`: nothing is deployed here."""
        return []

    def close(self) -> None:
        """See `Backend`."""
        with self._lock:
            for zygote in self._warm or []:
                zygote.end()
            self._warm = None

    def _take(self, environment: Mapping[str, str]) -> list[Zygote]:
        wanted = read_at_import(environment)
        with self._lock:
            warm, self._warm = self._warm, None
        if warm and all(read_at_import(one.environment) == wanted and one.process.poll() is None for one in warm):
            return warm
        for zygote in warm or []:
            zygote.end()
        return [spawn(environment, host.prefix) for host in self._hosts]

    def _start_session(self, plan: Plan, folder: Path, zygotes: list[Zygote]) -> Reached:
        keys = make_session_keys()
        gateway, agent = specifications(plan, keys, str(Path.cwd() / "checkpoints" / plan.session))
        began = time.time()
        for zygote in zygotes:
            await_ready(zygote, plan.framework)
            zygote.tell(Take(str(folder), os.getcwd(), sys.path, dict(os.environ)))
        stages = [Stage("zygote", began, time.time() - began), Stage("gateway", time.time())]
        address = self._hosts[0].address
        zygotes[0].tell(StartGateway(replace(gateway, host=address, folder=str(folder), stages=stages)))
        up = zygotes[0].hear()
        if not isinstance(up, GatewayUp):
            reason = up.reason if isinstance(up, Unable) else "the gateway did not start"
            raise SessionError(reason)
        per_host = -(-plan.nodes // len(self._hosts))
        cores = max(1, (os.cpu_count() or 1) // per_host)
        for node_rank in range(plan.nodes):
            index, place = divmod(node_rank, per_host)
            spec = replace(
                agent,
                node_rank=node_rank,
                gateway_host=address,
                gateway_port=up.node_port,
                address=self._hosts[index].address,
                cores=cores,
                first_accelerator=place * plan.ranks_per_node,
            )
            zygotes[index].tell(StartAgent(spec))
        for zygote in zygotes:
            zygote.tell(Settled())
        return Reached(address, up.client_port, keys.gateway.public, keys.client, up.pid)
