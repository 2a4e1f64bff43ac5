"""The local backend: nodes are simulated on this machine by processes that a zygote forks (Linux and macOS)."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modal_magic import registry
from modal_magic.backends.base import Plan, Reached
from modal_magic.errors import SessionError
from modal_magic.framing import frame, split
from modal_magic.link import Keys, make_keys
from modal_magic.protocol import Message
from modal_magic.specs import (
    AgentSpec,
    GatewaySpec,
    GatewayUp,
    Ready,
    Settled,
    StartAgent,
    StartGateway,
    Take,
    Unable,
    ZygoteWord,
    decode_zygote_word,
)

__all__ = ["Host", "LocalBackend"]

READ_AT_IMPORT = (
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "NUMEXPR_",
    "TORCH_",
    "PYTORCH_",
    "LD_",
    "DYLD_",
    "PYTHON",
    "KMP_",
    "CUDA_",
)
"""Variables with these beginnings are read when a module is imported: a zygote that has other values is of no use."""
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Host:
    """Where the nodes of a session run: an address, and what stands before a command that is to run there.

    The machine itself has no prefix. In a network namespace of Linux it is `ip netns exec NAME`.
    """

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


@dataclass(eq=False, slots=True)
class Zygote:
    """A zygote's process and our ends of its pipes."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    buffer: bytearray = field(default_factory=bytearray)
    words: list[ZygoteWord] = field(default_factory=list)
    ready: Ready | None = None

    def tell(self, message: Message) -> None:
        """Write a word. Raises SessionError when the zygote is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(frame(message))
            self.process.stdin.flush()
        except OSError:
            raise SessionError("the process that starts ranks has ended; try again") from None

    def hear(self) -> ZygoteWord:
        """Read a word, waiting for it. Raises SessionError when none comes any more."""
        assert self.process.stdout is not None
        while not self.words:
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise SessionError(f"the process that starts ranks has ended with exit code {self.process.wait()}")
            self.buffer += data
            self.words += [decode_zygote_word(word) for word in split(self.buffer)]
        return self.words.pop(0)

    def let_go(self) -> None:
        """Close our ends. A zygote that serves a session goes on; any other ends, and all that it has forked."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def end(self) -> None:
        """End a zygote that no session took. It has forked nobody and may still be importing, so it is not asked."""
        self.let_go()
        self.process.kill()
        self.process.wait()


def read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a zygote must have from its first moment."""
    return {key: value for key, value in environment.items() if key.startswith(READ_AT_IMPORT)}


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
        """See `Backend`: starts a zygote that imports torch."""
        with self._lock:
            if self._warm is None:
                self._warm = [_spawn(host, dict(os.environ)) for host in self._hosts]

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

    def finish(self, session: str, seconds: float) -> bool:
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
        return [_spawn(host, environment) for host in self._hosts]

    def _start_session(self, plan: Plan, folder: Path, zygotes: list[Zygote]) -> Reached:
        gateway, client, node = make_keys(), make_keys(), make_keys()
        for zygote in zygotes:
            _await_ready(zygote, plan.framework)
            zygote.tell(Take(str(folder), os.getcwd(), sys.path, dict(os.environ)))
        address = self._hosts[0].address
        zygotes[0].tell(
            StartGateway(
                GatewaySpec(
                    session=plan.session,
                    host=address,
                    public_key=gateway.public,
                    secret_key=gateway.secret,
                    client_key=client.public,
                    node_key=node.public,
                    nodes=plan.nodes,
                    ranks_per_node=plan.ranks_per_node,
                    framework=plan.framework,
                    accelerated=plan.gpu is not None,
                    i6pn=False,
                    environment=plan.environment,
                    lease=plan.lease,
                    idle=plan.idle,
                    max_lifetime=plan.max_lifetime,
                    folder=str(folder),
                    log_limit=plan.log_limit,
                )
            )
        )
        up = zygotes[0].hear()
        if not isinstance(up, GatewayUp):
            reason = up.reason if isinstance(up, Unable) else "the gateway did not start"
            raise SessionError(reason)
        per_host = -(-plan.nodes // len(self._hosts))
        cores = max(1, (os.cpu_count() or 1) // per_host)
        for node_rank in range(plan.nodes):
            index, place = divmod(node_rank, per_host)
            zygotes[index].tell(
                StartAgent(
                    AgentSpec(
                        session=plan.session,
                        node_rank=node_rank,
                        gateway_host=address,
                        gateway_port=up.node_port,
                        gateway_key=gateway.public,
                        public_key=node.public,
                        secret_key=node.secret,
                        address=self._hosts[index].address,
                        framework=plan.framework,
                        cores=cores,
                        first_accelerator=place * plan.ranks_per_node,
                    )
                )
            )
        for zygote in zygotes:
            zygote.tell(Settled())
        return Reached(address, up.client_port, gateway.public, Keys(client.public, client.secret), up.pid)


def _await_ready(zygote: Zygote, framework: str) -> None:
    if zygote.ready is None:
        word = zygote.hear()
        if not isinstance(word, Ready):
            raise SessionError("the process that starts ranks did not become ready")
        zygote.ready = word
    if framework != "none" and framework in zygote.ready.missing:
        raise SessionError(
            f"{framework} is not installed for {sys.executable}: `%pip install {framework}`, or run cells without a "
            "process group by --framework none"
        )


def _spawn(host: Host, environment: Mapping[str, str]) -> Zygote:
    """Start a zygote in a session of its own, so that a kernel's Ctrl-C does not reach it."""
    # One thread each while modules are imported: a thread pool in the zygote would make its forks unsafe. Ranks get
    # their own numbers.
    own = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # Each connection that we cut to free a rank would be a warning of torch's C++ code with twenty frames.
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
    process = subprocess.Popen(
        [*host.prefix, sys.executable, "-m", "modal_magic.node.zygote"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**quiet, **environment, **own, "PYTHONPATH": _import_path(environment)},
        start_new_session=True,
    )
    return Zygote(process, dict(environment))


def _import_path(environment: Mapping[str, str]) -> str:
    """PYTHONPATH with the folder that this package was imported from: it may be a checkout that is not installed."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [here, environment.get("PYTHONPATH", "")]))
