"""torch.distributed inside a rank: a process group that is there from the start and can be built anew at any time.

The group's store listens in the gateway and is private to the session. Our wrapper of `init_process_group` gives every
init a prefix of its own, and ranks first gather in a loop in Python (which an interrupt can leave) before torch's own
rendezvous, so that nobody waits in C++ for a rank that does not come. Scripts that call `init_process_group` and
`destroy_process_group` themselves, with MASTER_ADDR of their own or not, get the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed import distributed_c10d as c10d
from torch.distributed.constants import default_pg_timeout
from torch.nn.parallel import DistributedDataParallel

from modal_magic.frameworks.base import Superseded
from modal_magic.frameworks.collectives import BACKWARD, WAIT, Collective, find_call
from modal_magic.frameworks.plain import reseed_python
from modal_magic.frameworks.sockets import SocketBook
from modal_magic.frameworks.threads import let_threads_finish
from modal_magic.frameworks.works import Issued, WorkBook
from modal_magic.protocol import ASYNC, ErrorKind, Health, Store
from modal_magic.ranges import name_ranks
from modal_magic.specs import WorkerSpec

__all__ = ["TorchRank", "open_store", "prepare"]

OURS = ""
"""The owner of a process group that no script made."""
GATHER_SECONDS = (0.0005, 0.05)
"""The first and the longest pause between two looks at the door: most ranks come at once, some wait for long."""
UNCOUNTED = ("init_", "new_", "split_", "destroy_", "Distributed", "forward")
"""How the calls begin that are no collective of a group, or several: no number tells them apart."""
CONNECT = timedelta(seconds=10)
"""How long gloo waits for a peer to connect. One that dies just then leaves no connection that could be cut."""
GLOO_THREADS = "pt_gloo_runloop"
"""The threads in which gloo's groups do their collectives, as the system names them."""
LINGERING = 2
"""So many groups that were left may be kept by models and tracebacks that are garbage. Each has threads and sockets."""
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


@dataclass(slots=True)
class Wrapped:
    """A DistributedDataParallel object that a cell made, with the arguments to make it again in place."""

    number: int
    reference: weakref.ref[DistributedDataParallel]
    arguments: dict[str, Any]


@dataclass(slots=True)
class TorchRank:
    """The torch side of one rank."""

    spec: WorkerSpec
    device: str
    original_init: Callable[..., None] = c10d.init_process_group
    original_wrap: Callable[..., None] = DistributedDataParallel.__init__
    original_new_group: Callable[..., Any] = c10d.new_group
    original_destroy: Callable[..., None] = c10d.destroy_process_group
    generation: int = 0
    wanted: int = 0
    joining: bool = False
    run: str = OURS
    owner: str = OURS
    inits: int = 0
    severed: bool = False
    wrapped: list[Wrapped] = field(default_factory=list)
    wraps: int = 0
    sockets: SocketBook = field(default_factory=SocketBook)
    retired: list[Any] = field(default_factory=list)
    works: WorkBook = field(default_factory=WorkBook)
    left: list[weakref.ref[Any]] = field(default_factory=list)
    lingering: int = 0

    # -- the seam

    def reseed(self) -> None:
        """See `Framework`."""
        reseed_python()
        torch.seed()

    def begin(self, run: str) -> None:
        """See `Framework`."""
        self.run, self.inits = run, 0
        self._bury()

    def namespace(self) -> dict[str, Any]:
        """See `Framework`."""
        return {"device": torch.device(self.device)}

    def join(self, generation: int, together: bool) -> None:
        """See `Framework`."""
        self.generation, self.run, self.inits = generation, OURS, 0
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
            self._rewrap()
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
            return Health(grouped=False, severed=self.severed)
        sequences: dict[str, int] = {}
        for group, name in c10d._world.pg_names.items():
            with contextlib.suppress(RuntimeError):  # a group that counts nothing has nothing to disagree about
                sequences[name] = group._get_sequence_number_for_group()  # type: ignore[attr-defined]
        return Health(True, sequences, self.severed)

    def kind_of(self, error: BaseException) -> ErrorKind:
        """See `Framework`."""
        if isinstance(error, dist.DistNetworkError | dist.DistBackendError):
            return "communication"
        if type(error) is not RuntimeError:  # a cell's own class may have a __str__ that raises
            return "exception"
        text = str(error).lower()
        return "communication" if any(word in text for word in COMMUNICATION_ERRORS) else "exception"

    def sever(self) -> None:
        """See `Framework`."""
        self.severed = True
        self.sockets.shut_down()

    def collective(self, frames: Sequence[FrameType]) -> Collective:
        """See `Framework`. Which group it is, is among the arguments of the call, or was noted when it was issued."""
        name, frame = find_call(frames) or ("", None)
        if name == BACKWARD and not any(item.reference() is not None for item in self.wrapped):
            name = ""
        try:
            arguments = frame.f_locals if frame is not None and name else {}
            if name == WAIT:
                return self._of_work(self.works.issued.get(arguments["work"]))
            return self._with_group(name, arguments)
        except Exception:  # the main thread goes on meanwhile, and may be leaving the group
            return Collective(name)

    def _with_group(self, name: str, arguments: Mapping[str, Any]) -> Collective:
        default, given = c10d._world.default_pg, arguments.get("group")
        group = given if isinstance(given, dist.ProcessGroup) else default
        if group is None:
            return Collective(name)
        size = dist.get_world_size()
        everyone = () if size == int(self.spec.place.environment["WORLD_SIZE"]) else tuple(range(size))
        if name.startswith(UNCOUNTED):
            return Collective(name, "", 0, everyone)
        sequence = group._get_sequence_number_for_group()  # type: ignore[attr-defined]
        if name.startswith(("send", "recv")):
            return self._with_peer(name, group, sequence, arguments.get("group_dst", arguments.get("group_src")))
        if group is default:
            return Collective(name, "default group", sequence, everyone)
        members = tuple(c10d._world.pg_group_ranks[group])
        return Collective(name, f"group of {name_ranks(members)}", sequence, members)

    def _of_work(self, issued: Issued | None) -> Collective:
        """What a rank waits for that waits for a piece of work. Its number is that of the work, not of the newest."""
        group = issued.group() if issued is not None else None
        if issued is None or group is None:
            return Collective(WAIT)
        if issued.name in ("isend", "irecv"):
            return self._with_peer(issued.name, group, issued.sequence, issued.peer)
        found = self._with_group(issued.name + ASYNC, {"group": group})
        return dataclasses.replace(found, sequence=issued.sequence)

    def _with_peer(self, name: str, group: dist.ProcessGroup, sequence: int, peer: object) -> Collective:
        """A send or recv; `peer` is a rank of its group."""
        own, towards = dist.get_rank(), "to" if "send" in name else "from"
        if not isinstance(peer, int):
            return Collective(name, f"{towards} any rank", sequence, (own,))
        other = dist.get_global_rank(group, peer)
        return Collective(name, f"{towards} rank {other}", sequence, tuple(sorted({own, other})))

    # -- the wrapped calls

    def install(self) -> None:
        """Put our wrappers in the place of torch's functions, before any cell imports them."""
        self.works.install()
        init, new_group, wrap = self._wrap_init(), self._wrap_new_group(), self._wrap_ddp()
        destroy = self._wrap_destroy()
        for module in (dist, c10d):
            vars(module).update(init_process_group=init, new_group=new_group, destroy_process_group=destroy)
        DistributedDataParallel.__init__ = wrap  # type: ignore[method-assign]

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
                with self.sockets.recording():
                    self.original_init(backend, None, None, size, rank, store, **options)
            self.owner = self.run
            return None

        return init_process_group

    def _wrap_new_group(self) -> Callable[..., Any]:
        @functools.wraps(self.original_new_group)
        def new_group(*arguments: Any, **options: Any) -> Any:
            with self.sockets.recording():
                return self.original_new_group(*arguments, **options)

        return new_group

    def _wrap_destroy(self) -> Callable[..., None]:
        @functools.wraps(self.original_destroy)
        def destroy_process_group(*arguments: Any, **options: Any) -> None:
            self.retired += c10d._world.pg_map
            self.left += map(weakref.ref, c10d._world.pg_map)
            self.original_destroy(*arguments, **options)

        return destroy_process_group

    def _bury(self) -> None:
        """Let go of the groups that were destroyed a while ago.

        Not at once: ~ProcessGroupGloo joins its threads with the GIL held, and a thread that has just finished a
        collective needs the GIL to drop its tensors (torch 2.13: a script that destroys its group right after a
        backward hangs now and then). So such a thread is let have it first.
        """
        if not self.retired:
            return
        let_threads_finish(GLOO_THREADS)
        self.retired.clear()
        self._count_lingering()
        if len(self.left) > self.lingering + LINGERING:
            gc.collect()  # models refer to themselves, and so to the group that they were made for
            self._count_lingering()
            self.lingering = len(self.left)

    def _count_lingering(self) -> None:
        """Forget the groups that nobody has any more."""
        self.left = [group for group in self.left if group() is not None]
        self.lingering = min(self.lingering, len(self.left))

    def _wrap_ddp(self) -> Callable[..., None]:
        @functools.wraps(self.original_wrap)
        def wrap(this: DistributedDataParallel, module: torch.nn.Module, *arguments: Any, **options: Any) -> None:
            self.original_wrap(this, module, *arguments, **options)
            self.wraps += 1
            if not arguments and options.get("process_group") is None:
                self.wrapped.append(Wrapped(self.wraps, weakref.ref(this), options))

        return wrap

    # -- joining

    def _cut_short(self) -> None:
        """Free the main thread from a group that will not be: in there it may wait in C++ for one that does not come.

        Again and again, for torch can be about to open another connection.
        """
        if self.joining and self.wanted > self.generation:
            self.sockets.shut_down()
            again = threading.Timer(CUT_SECONDS, self._cut_short)
            again.daemon = True
            again.start()

    def _init(self, backend: str | None, rank: int, size: int, options: dict[str, Any]) -> None:
        """Gather, leave the old group, and form a new one under a prefix that no other init has had."""
        assert self.spec.store is not None
        self.inits += 1
        store = self.spec.store
        prefix = f"{store.prefix}/{self.generation}/{self.run}/{self.inits}/{size}"
        with self.sockets.recording():
            keeper = TCPStore(store.host, store.port, is_master=False, wait_for_workers=False)
            shared = c10d.PrefixStore(prefix, keeper)
            self._gather(shared, size)
            self._retire()
            self.original_init(
                backend=backend or self._default_backend(), store=shared, rank=rank, world_size=size, **options
            )
        self.severed = False

    def _gather(self, store: c10d.Store, size: int) -> None:
        """Wait for all ranks in Python: the last to come opens the door."""
        if store.add("arrived", 1) >= size:
            store.set("open", "1")
        pause, longest = GATHER_SECONDS
        while not store.check(["open"]):  # a wait in C++ that was in vain looks up its peer's name, which takes seconds
            if self.wanted > self.generation and self.run == OURS:
                raise Superseded
            time.sleep(pause)
            pause = min(1.25 * pause, longest)
        if self.wanted > self.generation and self.run == OURS:
            raise Superseded  # the others open the door also for one that has left it since

    def _retire(self) -> None:
        """Leave the default group and all that were made of it, if there are any."""
        self._bury()
        if dist.is_initialized():
            dist.destroy_process_group()
        # Groups are named by this count, and only a destroyed group resets it: after an init that failed, this rank
        # would look for the others under another name than a rank that was started anew.
        c10d._world.group_count = 0
        self.sockets.forget()

    def _default_backend(self) -> str:
        return "cpu:gloo,cuda:nccl" if self.device.startswith("cuda") else "gloo"

    def _rewrap(self) -> None:
        """Have the DDP objects that every rank still holds use the new group, in the order in which they were made.

        Each DDP constructor is collective, so ranks first agree on which: a rank that was started anew has none. From
        here on all count alike, so that what is made next has one number on all of them.
        """
        if self.generation == 1:
            return
        # Held from here on: one that goes away on one rank while the others construct it would leave them waiting.
        living = {item.number: ddp for item in self.wrapped if (ddp := item.reference()) is not None}
        self.wrapped = [item for item in self.wrapped if item.number in living]
        count = torch.tensor(self.wraps)
        dist.all_reduce(count, dist.ReduceOp.MAX)
        self.wraps = int(count)
        held = torch.zeros(self.wraps + 1, dtype=torch.uint8)
        for item in self.wrapped:
            held[item.number] = 1
        dist.all_reduce(held, dist.ReduceOp.MIN)
        for item in self.wrapped:
            if held[item.number]:
                ddp = living[item.number]
                self.original_wrap(ddp, ddp.module, **item.arguments)


def prepare(spec: WorkerSpec) -> TorchRank:
    """A worker's framework: threads as the environment says, wrappers in place, the GPU chosen."""
    torch.set_num_threads(int(spec.place.environment.get("OMP_NUM_THREADS", "1")))
    rank = TorchRank(spec, spec.place.device)
    if rank.device.startswith("cuda"):
        torch.cuda.set_device(torch.device(rank.device))
    rank.install()
    return rank


@contextlib.contextmanager
def open_store(host: str, session: str) -> Iterator[Store]:
    """A TCPStore on a free port of `host` alone, served by threads of this process."""
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        server = TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
            timeout=timedelta(minutes=30),
        )
        # A name that no other session has, also one that comes back under the same name.
        yield Store(host, port, f"{session}-{time.time_ns():x}")
        del server
