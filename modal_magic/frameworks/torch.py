"""torch.distributed inside a rank: a process group that is there from the start and can be built anew at any time.

The group's store listens in the gateway and is private to the session. Our wrapper of `init_process_group` gives every
init a prefix of its own, and ranks first gather in a loop in Python (which an interrupt can leave) before torch's own
rendezvous, so that nobody waits in C++ for a rank that does not come. Scripts that call `init_process_group` and
`destroy_process_group` themselves, with MASTER_ADDR of their own or not, get the same.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d
from torch.distributed.constants import default_pg_timeout

from modal_magic.frameworks.base import Superseded
from modal_magic.frameworks.calls import call_of
from modal_magic.frameworks.collectives import Collective
from modal_magic.frameworks.ddp import ModelBook
from modal_magic.frameworks.freeing import Freeing
from modal_magic.frameworks.left_groups import LeftGroups
from modal_magic.frameworks.plain import reseed_python
from modal_magic.frameworks.store import open_store, reach_store
from modal_magic.frameworks.works import WorkBook
from modal_magic.protocol import ErrorKind, Health
from modal_magic.specs import WorkerSpec

__all__ = ["TorchRank", "open_store", "prepare"]

OURS = ""
"""The owner of a process group that no script made."""
CONNECT = timedelta(seconds=10)
"""How long gloo waits for a peer to connect. One that dies just then leaves no connection that could be cut."""
CUT_SECONDS = 0.05
"""How often a rank is freed from a group that will not be, until it is free."""
COMMUNICATION_ERRORS = (
    "connection reset by peer",
    "connection closed by peer",
    "connection refused",
    "broken pipe",
    "socket closed",
    "gloo/transport",
    "nccl communicator was aborted",
    "remote process exited",
)
"""What torch's RuntimeErrors say when it is another rank that is gone (gloo gives them no type of their own)."""
GROUP_GONE = (
    "groups of new_group go with the process group when that is formed anew after a failure: make this one again"
)


@dataclass(slots=True)
class TorchRank:
    """The torch side of one rank."""

    spec: WorkerSpec
    device: str
    original_init: Callable[..., None] = c10d.init_process_group
    original_new_group: Callable[..., Any] = c10d.new_group
    original_destroy: Callable[..., None] = c10d.destroy_process_group
    generation: int = 0
    wanted: int = 0
    joining: bool = False
    run: str = OURS
    owner: str = OURS
    inits: int = 0
    severed: bool = False
    shared: c10d.Store | None = None
    new_groups: Counter[tuple[int, ...]] = field(default_factory=Counter)
    counting: bool = False
    freeing: Freeing = field(default_factory=Freeing)
    works: WorkBook = field(default_factory=WorkBook)
    models: ModelBook = field(default_factory=ModelBook)
    groups: LeftGroups = field(default_factory=LeftGroups)

    # -- the seam

    def reseed(self) -> None:
        """See `Framework`."""
        reseed_python()
        torch.seed()

    def begin(self, run: str) -> None:
        """See `Framework`."""
        self.run, self.inits = run, 0
        self.freeing.resume()
        self.groups.bury()

    def namespace(self) -> dict[str, Any]:
        """See `Framework`."""
        return {"device": torch.device(self.device)}

    def join(self, generation: int, together: bool) -> None:
        """See `Framework`."""
        self.generation, self.run, self.inits = generation, OURS, 0
        self.freeing.resume()
        if self.wanted > generation:
            raise Superseded
        place = self.spec.place
        self.joining = True
        try:
            self._retire()
            if not together:
                return
            gloo = self._default_backend() == "gloo"
            options: dict[str, Any] = {"timeout": CONNECT} if gloo else {}
            self._init(None, int(place.environment["RANK"]), int(place.environment["WORLD_SIZE"]), options)
            if gloo:
                c10d._set_pg_timeout(default_pg_timeout)
            self.owner = OURS
            if generation > 1:
                self.models.construct_again()
        except Exception:
            if self.wanted > generation:
                raise Superseded from None
            raise
        finally:
            self.joining = False

    def supersede(self, generation: int) -> None:
        """See `Framework`. One that waits in C++ for a rank that has died meanwhile is cut off."""
        self.wanted = max(self.wanted, generation)
        self._cut_short()

    def health(self) -> Health:
        """See `Framework`."""
        if not dist.is_initialized():
            return Health(grouped=False, severed=self.severed or self.counting)
        sequences: dict[str, int] = {}
        for group, name in c10d._world.pg_names.items():
            with contextlib.suppress(RuntimeError):  # a group that counts nothing has nothing to disagree about
                sequences[name] = group._get_sequence_number_for_group()  # type: ignore[attr-defined]
        return Health(True, sequences, self.severed or self.counting)

    def kind_of(self, error: BaseException) -> ErrorKind:
        """See `Framework`."""
        if isinstance(error, dist.DistNetworkError | dist.DistBackendError):
            return "communication"
        if type(error) is not RuntimeError:  # a cell's own class may have a __str__ that raises
            return "exception"
        text = str(error).lower()
        return "communication" if any(word in text for word in COMMUNICATION_ERRORS) else "exception"

    def advice(self, error: BaseException) -> str:
        """See Framework: torch does not know a group of `new_group` that went with the group before."""
        return GROUP_GONE if isinstance(error, ValueError) and "in the world group map" in str(error) else ""

    def sever(self) -> None:
        """See `Framework`."""
        self.severed = self.freeing.cut() or self.severed

    def collective(self, frames: Sequence[FrameType]) -> Collective:
        """See `Framework`. Which group it is, is among the arguments of the call, or was noted when it was issued."""
        world_size = int(self.spec.place.environment["WORLD_SIZE"])
        return call_of(frames, self.works, self.models.alive, world_size)

    # -- the wrapped calls

    def install(self) -> None:
        """Put our wrappers in the place of torch's functions, before any cell imports them."""
        self.works.install()
        self.models.install()
        init, new_group, destroy = self._wrap_init(), self._wrap_new_group(), self._wrap_destroy()
        for module in (dist, c10d):
            vars(module).update(init_process_group=init, new_group=new_group, destroy_process_group=destroy)

    def _wrap_init(self) -> Callable[..., None]:
        @functools.wraps(self.original_init)
        def init_process_group(
            backend: str | None = None,
            init_method: str | None = None,
            timeout: timedelta | None = None,
            world_size: int = -1,
            rank: int = -1,
            store: Any = None,
            *arguments: Any,
            **options: Any,
        ) -> None:
            if dist.is_initialized() and self.owner == self.run:
                # The second init of one cell is torch's to refuse, in its own words.
                return self.original_init(backend, init_method, timeout, world_size, rank, store, *arguments, **options)
            if timeout is not None:
                options["timeout"] = timeout
            if arguments:
                options |= dict(zip(("group_name", "pg_options", "device_id"), arguments, strict=False))
            environment = self.spec.place.environment
            rank = rank if rank >= 0 else int(os.environ.get("RANK", environment["RANK"]))
            size = world_size if world_size > 0 else int(os.environ.get("WORLD_SIZE", environment["WORLD_SIZE"]))
            if store is None:
                self._init(backend, rank, size, options)
            else:
                self._retire()
                with self.freeing.sockets.recording():
                    self.original_init(backend, None, None, size, rank, store, **options)
                self.shared = None
            self.owner = self.run
            return None

        return init_process_group

    def _wrap_new_group(self) -> Callable[..., Any]:
        @functools.wraps(self.original_new_group)
        def new_group(*arguments: Any, **options: Any) -> Any:
            self._gather_for_new_group(arguments[0] if arguments else options.get("ranks"))
            with self.freeing.sockets.recording():
                return self.original_new_group(*arguments, **options)

        return new_group

    def _wrap_destroy(self) -> Callable[..., None]:
        @functools.wraps(self.original_destroy)
        def destroy_process_group(*arguments: Any, **options: Any) -> None:
            self.groups.leave(c10d._world.pg_map)
            self.original_destroy(*arguments, **options)

        return destroy_process_group

    # -- joining

    def _cut_short(self) -> None:
        """Free the main thread from a group that will not be: in there it may wait in C++ for one that does not come.

        Again and again, for torch can be about to open another connection.
        """
        if self.joining and self.wanted > self.generation:
            self.freeing.cut()
            again = threading.Timer(CUT_SECONDS, self._cut_short)
            again.daemon = True
            again.start()

    def _init(self, backend: str | None, rank: int, size: int, options: dict[str, Any]) -> None:
        """Gather, leave the old group, and form a new one under a prefix that no other init has had."""
        assert self.spec.store is not None
        self.inits += 1
        store = self.spec.store
        prefix = f"{store.prefix}/{self.generation}/{self.run}/{self.inits}/{size}"
        with self.freeing.sockets.recording():
            shared = self.freeing.reach(lambda: reach_store(store, prefix))
            self.freeing.gather(shared, size, self._is_superseded)
            self._retire()
            self.original_init(
                backend=backend or self._default_backend(), store=shared, rank=rank, world_size=size, **options
            )
        self.severed, self.counting, self.shared = False, False, shared
        self.new_groups.clear()

    def _gather_for_new_group(self, ranks: object) -> None:
        """Wait for those that are to be in the group: they connect to each other. One that leaves here has lost count.

        All have to call in theory; with gloo those that are no members may go without, and so they may here.
        """
        if self.shared is None or not dist.is_initialized() or not isinstance(ranks, list | tuple | range | None):
            return
        members = tuple(range(dist.get_world_size()) if ranks is None else sorted(set(ranks)))
        if dist.get_rank() in members:
            self.new_groups[members] += 1
            door = c10d.PrefixStore(f"new_group/{members}/{self.new_groups[members]}", self.shared)
            self.counting = True
            self.freeing.gather(door, len(members), lambda: False)
            self.counting = False

    def _is_superseded(self) -> bool:
        """Whether the group that is being formed will not be. One that a script asks for, it has to wait for."""
        return self.wanted > self.generation and self.run == OURS

    def _retire(self) -> None:
        """Leave the default group and all that were made of it, if there are any."""
        self.groups.bury()
        if dist.is_initialized():
            dist.destroy_process_group()
        # Groups are named by this count, and only a destroyed group resets it: after an init that failed, this rank
        # would look for the others under another name than a rank that was started anew.
        c10d._world.group_count = 0
        self.freeing.sockets.forget()

    def _default_backend(self) -> str:
        return "cpu:gloo,cuda:nccl" if self.device.startswith("cuda") else "gloo"


def prepare(spec: WorkerSpec) -> TorchRank:
    """A worker's framework: threads as the environment says, wrappers in place, the GPU chosen."""
    torch.set_num_threads(int(spec.place.environment.get("OMP_NUM_THREADS", "1")))
    rank = TorchRank(spec, spec.place.device)
    if rank.device.startswith("cuda"):
        torch.cuda.set_device(torch.device(rank.device))
    rank.install()
    return rank
