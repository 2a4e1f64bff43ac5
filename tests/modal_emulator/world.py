"""What the emulator knows: apps, functions, calls, inputs and containers, as plain data."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modal_proto import api_pb2 as api

if TYPE_CHECKING:
    from tests.modal_emulator.network import Namespace

__all__ = ["App", "Call", "Cluster", "Container", "Function", "Input", "Settings", "World"]


@dataclass(slots=True)
class Settings:
    """What a test may change while the emulator runs.

    `refused` are the RPCs that are answered by an error: a gRPC status and the reason.
    `delays` are how long, in seconds, a container of a class waits for its machine. `held` are the classes whose
    containers are left in the queue, each with how many may start before that. `snapshot` is what becomes of a memory
    snapshot: the container goes on (`continue`), or goes on without the processes that it had started (`childless`); or
    it goes on, and what it has in memory is what the next containers start with (`dump`, where CRIU can be used).
    `gpu_restore` is what becomes of one with the GPU's memory: `works`, or the container dies, and the next one makes
    the snapshot anew (`crashes`) or has none (`fails`, which Modal's client tells by its exit code).
    `broken_image` is what cannot be installed, and `build_seconds` how long an image takes. `tunnels` is whether their
    ports can be reached. `round_trip` is how long, in seconds, a word and its answer take between a client and what is
    on Modal, through tunnels and queues. `answers` is whether the service answers at all: what is asked meanwhile waits
    until it does, and tunnels go on.
    """

    held: dict[str, int] = field(default_factory=dict)
    delays: dict[str, float] = field(default_factory=dict)
    snapshot: str = "continue"
    gpu_restore: str = "works"
    broken_image: str = ""
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)
    build_seconds: float = 0.0
    tunnels: bool = True
    round_trip: float = 0.0
    answers: bool = True


@dataclass(slots=True)
class App:
    """An app. `name` is that of its deployment; empty while it has none."""

    id: str
    name: str = ""
    description: str = ""
    state: int = api.APP_STATE_INITIALIZING
    functions: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Function:
    """A function, or all methods of a class.

    `snapshot` is the container whose memory its next ones start from; so many (`without`) do not. `dumped` is where it
    is, if it is kept. A variant of another one, with parameters or options of its own, has what it was `bound`
    by.
    """

    id: str
    app: App
    name: str
    metadata: api.FunctionHandleMetadata
    definition: api.Function = field(default_factory=api.Function)
    gpus: list[api.GPUConfig] = field(default_factory=list)
    waiting: list[Input] = field(default_factory=list)
    started: int = 0
    snapshot: str = ""
    without: int = 0
    dumped: Path | None = None
    bound: api.FunctionBindParamsRequest = field(default_factory=api.FunctionBindParamsRequest)

    @property
    def on_gpu(self) -> bool:
        """Whether a snapshot has the GPU's memory too."""
        wanted = self.definition.experimental_options.get("enable_gpu_snapshot") == "True"
        return wanted and bool(self.definition.resources.gpu_config.gpu_type)


@dataclass(slots=True)
class Call:
    """A call of a function. `answered` are its inputs that have an output, in the order in which they got it."""

    id: str
    function: Function
    inputs: list[Input] = field(default_factory=list)
    answered: list[Input] = field(default_factory=list)
    cancelled: bool = False


@dataclass(slots=True)
class Input:
    """One input of a call and, once it has one, its output."""

    id: str
    call: Call
    index: int
    input: api.FunctionInput
    kind: int
    containers_lost: int = 0
    failures: int = 0
    output: api.FunctionGetOutputsItem | None = None


@dataclass(eq=False, slots=True)
class Cluster:
    """Containers that were started together, in the order of their ranks, and their addresses once they have told.

    What the first one takes is broadcast to the others.
    """

    id: str
    members: list[Container] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)
    broadcast: dict[str, list[Input]] = field(default_factory=lambda: defaultdict(list))


@dataclass(eq=False, slots=True)
class Container:
    """A container: a process, its listener, and the inputs it works on. `idle_since` is monotonic, None while busy."""

    id: str
    function: Function
    folder: Path
    namespace: Namespace | None
    enqueued_at: float
    cluster: Cluster | None = None
    process: asyncio.subprocess.Process | None = None
    working_on: dict[str, Input] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    tunnels: dict[int, asyncio.Server] = field(default_factory=dict)
    idle_since: float | None = None
    stopping: bool = False
    checkpointed: bool = False
    failure: api.GenericResult | None = None
    started_at: float = 0.0
    region: str = "us-east-1"

    @property
    def url(self) -> str:
        """Where it finds the service: at a socket of its own."""
        return f"unix://{self.folder}/modal.sock"

    @property
    def leads(self) -> bool:
        """Whether this one takes inputs from the function's queue: it is alone, or the first of its cluster."""
        return self.cluster is None or self.cluster.members[0] is self


@dataclass(slots=True)
class World:
    """All of it, and a bell that rings whenever something changes. One event loop touches it.

    `containers` are those that are there, `started` all that ever were.
    """

    folder: Path
    settings: Settings = field(default_factory=Settings)
    apps: dict[str, App] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    started: list[Container] = field(default_factory=list)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    bell: asyncio.Event = field(default_factory=asyncio.Event)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def name(self, prefix: str) -> str:
        """A fresh id: `ta-000007`."""
        return f"{prefix}-{next(self.numbers):06d}"

    def note(self, text: str) -> None:
        """Remember that something happened, for tests that ask."""
        self.history.append(text)

    async def ring(self) -> None:
        """Something has changed."""
        self.bell.set()
        self.bell = asyncio.Event()

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds. Whether it does after so many seconds."""
        # No lock: who waits here may be cancelled at any moment, and more than once, when its connection ends.
        deadline = time.monotonic() + seconds
        while not holds():
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self.bell.wait()
            except TimeoutError:
                return holds()
        return True

    def app_named(self, name: str) -> App | None:
        """The app that is deployed under a name."""
        deployed = (app for app in self.apps.values() if app.name == name and app.state == api.APP_STATE_DEPLOYED)
        return next(deployed, None)
