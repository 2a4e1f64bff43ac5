"""The gateway: performs the machine's effects, keeps the log, serves clients and nodes. No socket, no thread."""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.flow import Flow
from modal_magic.log import EventLog
from modal_magic.specs import GatewaySpec
from modal_magic.topology import Topology

__all__ = ["Door", "Gateway"]

BATCH_BYTES = 1024 * 1024
"""Records go to a client in batches of about this size, so that a small message never waits behind a large one."""
SLICE_SECONDS = 0.02
"""After so long with the records of clients everybody else has a turn."""

PATIENT = p.RunQueued | p.Submitted | p.Started | p.Finished
"""Events that nobody waits for: they go to clients with the next one that somebody does, or after the time below."""
PATIENCE_SECONDS = 0.01


def can_wait(event: p.Event) -> bool:
    """Whether nobody waits for an event: then a short cell wakes its kernel once, at its end."""
    return isinstance(event, PATIENT) or (isinstance(event, p.SessionChanged) and event.state == "running")


@dataclass(slots=True)
class Client:
    """An attached client: what it has been sent, and when it was last heard.

    `held` are answers that wait: each until the client has been sent the record of this number.
    """

    sent: int
    heard: float
    held: deque[tuple[int, bytes]] = field(default_factory=deque)


@dataclass(slots=True)
class Timers:
    """Named timers: each fires once, a later setting replaces an earlier one."""

    due: dict[str, float] = field(default_factory=dict)
    heap: list[tuple[float, str]] = field(default_factory=list)

    def set(self, name: str, when: float | None) -> None:
        """Have a timer fire at `when` (monotonic seconds), or not at all."""
        if when is None:
            self.due.pop(name, None)
        else:
            self.due[name] = when
            heapq.heappush(self.heap, (when, name))

    def fired(self, now: float) -> list[str]:
        """The timers that have run out, oldest first; they are taken out."""
        names = []
        while self.heap and self.heap[0][0] <= now:
            when, name = heapq.heappop(self.heap)
            if self.due.get(name) == when:
                del self.due[name]
                names.append(name)
        return names


class Door(Protocol):
    """Where peers come in and where their messages go out."""

    def send(self, identity: bytes, *frames: bytes) -> bool:
        """Send a message to a peer. False when it cannot take more now; one that is away is as good as told."""
        ...

    def waiting(self) -> bool:
        """Whether a message lies here that nobody has read."""
        ...


class Gateway:
    """One session's truth. `serving` gives it what comes in, the time (monotonic seconds) and its turns.

    A class because a file must be closed.
    """

    def __init__(
        self, spec: GatewaySpec, store: p.Store | None, clients: Door, nodes: Door, now: Callable[[], float]
    ) -> None:
        self.spec = spec
        self.client_door, self.node_door, self.now = clients, nodes, now
        topology = Topology(spec.nodes, spec.ranks_per_node)
        self.machine = s.Machine(
            s.Plan(
                topology,
                grouped=store is not None,
                accelerated=spec.accelerated,
                i6pn=spec.i6pn,
                environment=spec.environment,
                store=store,
                lease=spec.lease,
                idle=spec.idle,
                max_lifetime=spec.max_lifetime,
            )
        )
        self.log = EventLog(Path(spec.folder), spec.log_limit)
        self.began = now()
        self.next_beat = self.began
        self.timers = Timers()
        self.clients: dict[bytes, Client] = {}
        self.nodes: dict[bytes, tuple[int, float]] = {}
        self.flows: dict[str, Flow] = {}
        self.broadcast_by = math.inf
        self.noticed: set[str] = set()
        self.last_run: str | None = None
        self.ended: str | None = None
        self._handle(s.Attendance(0))

    # -- the loop's side

    def due(self) -> float:
        """When `turn` has something to do that no message brings."""
        return min([self.next_beat, *self.timers.due.values(), self.broadcast_by])

    def turn(self) -> None:
        """Do what is due: beats, timers, and records that clients wait for."""
        now = self.now()
        if now >= self.next_beat:
            self.next_beat = now + p.BEAT_SECONDS
            self._beat(now)
        for timer in self.timers.fired(now):
            self._handle(s.Fired(timer))
        if self.now() >= self.broadcast_by:
            self._broadcast()

    def close(self, reason: str) -> None:
        """Say goodbye to every client, and leave no file of a session that ended as it should."""
        for identity in self.clients:
            self.client_door.send(identity, p.encode(p.Closed(reason)))
        self.log.close(keep=self.ended is None)

    # -- nodes

    def from_node(self, identity: bytes, frames: list[bytes]) -> None:
        """Take a message of an agent. Raises one of `protocol.NOISE` when it is none."""
        if len(frames) != 1:
            return
        report = p.decode_report(frames[0])
        if isinstance(report, p.Joined):
            if report.version != p.VERSION or not 0 <= report.node_rank < self.spec.nodes:
                return
            self.nodes[identity] = (report.node_rank, self.now())
            self._handle(s.NodeJoined(report.node_rank, report.address, report.port, report.accelerators, report.cores))
        elif identity in self.nodes:
            node_rank, _ = self.nodes[identity]
            self.nodes[identity] = (node_rank, self.now())
            if isinstance(report, p.Happened):
                for event in report.events:
                    self._take(node_rank, event)
            elif isinstance(report, p.Left):
                del self.nodes[identity]
                self._handle(s.NodeGone(node_rank, report.reason))

    def _take(self, node_rank: int, event: p.NodeEvent) -> None:
        rank = getattr(event, "rank", None)
        if rank is not None and rank not in self.machine.plan.topology.ranks_of(node_rank):
            return
        if isinstance(event, p.Output):
            self._record_output(event)
            return
        if isinstance(event, p.Notice):
            if event.text in self.noticed:  # nodes that share a machine have the same to say
                return
            self.noticed.add(event.text)
        self._record(event)
        if isinstance(event, p.RankEvent):  # the machine wants to hear these; the others are only logged
            self._handle(event)

    # -- clients

    def from_client(self, identity: bytes, frames: list[bytes]) -> None:
        """Take a message of a client. Raises one of `protocol.NOISE` when it is none."""
        if len(frames) != 1:
            return
        request = p.decode_request(frames[0])
        now = self.now()
        if isinstance(request, p.Attach):
            self._attach(identity, request, now)
            return
        client = self.clients.get(identity)
        if client is None:  # one that was away for so long that it was forgotten
            self._reply(identity, p.Refused("", "attach first"))
            return
        client.heard = now
        match request:
            case p.Run():
                self.flows[request.task.run] = Flow(request.output_limit, now)
                self._handle(s.Asked(identity, request))
            case p.InterruptRun() | p.Restart() | p.Stop():
                self._handle(s.Asked(identity, request))
            case p.AskStatus():
                self._reply(identity, self._status(request.request))
            case p.AskLog():
                run = request.run or self.last_run or ""
                self._reply(identity, self.log.page(request.request, run, request.ranks, request.after, BATCH_BYTES))
            case p.AskStack():
                for node, (node_rank, _) in self.nodes.items():
                    ranks = list(self.machine.plan.topology.ranks_of(node_rank))
                    self.node_door.send(node, p.encode(p.StackRanks(ranks, request.request)))
            case p.Detach():
                del self.clients[identity]
                self._handle(s.Attendance(len(self.clients)))

    def _attach(self, identity: bytes, request: p.Attach, now: float) -> None:
        if request.version != p.VERSION:
            reason = f"the session speaks protocol {p.VERSION}, this modal_magic {request.version}: restart the session"
            self._reply(identity, p.Refused(request.client, reason))
            return
        self.clients[identity] = Client(max(0, min(request.since, self.log.newest)), now)
        world_size = self.machine.plan.topology.world_size
        self._reply(identity, p.Attached(p.VERSION, self.spec.session, world_size, self.log.newest))
        self._handle(s.Attendance(len(self.clients)))

    def _reply(self, identity: bytes, reply: p.Reply, after: int = 0) -> None:
        """Answer a client, once it has been sent the record `after`."""
        client, data = self.clients.get(identity), p.encode(reply)
        if client is None:
            self.client_door.send(identity, data)
        elif client.held or client.sent < after or not self.client_door.send(identity, data):
            client.held.append((after, data))
            self.broadcast_by = min(self.broadcast_by, self.now() + PATIENCE_SECONDS)

    def _status(self, request: str) -> p.Status:
        machine, now = self.machine, self.now()
        run = machine.active.run if machine.active is not None else machine.retrying or None
        left = {timer: due - now for timer, due in self.timers.due.items()}
        return p.Status(
            request=request,
            session=self.spec.session,
            state=machine.state,
            generation=machine.generation,
            ranks=[
                p.RankStatus(
                    number,
                    machine.plan.topology.node_of(number),
                    rank.state,
                    rank.pid,
                    run if machine.active is not None and number in machine.active.pending else None,
                    rank.device,
                )
                for number, rank in enumerate(machine.ranks)
            ],
            run=run,
            queued=[queued.task.run for _, queued in machine.queue if queued.task.run != run],
            clients=len(self.clients),
            uptime=now - self.began,
            lease=self.spec.lease,
            lease_left=left.get("lease"),
            idle=self.spec.idle,
            idle_left=left.get("idle"),
            lifetime_left=left.get("lifetime"),
        )

    # -- the log

    def _record(self, event: p.Event, withheld: bool = False) -> None:
        sound = not self.log.fault
        self.log.append(event, time.time(), withheld)
        if sound and self.log.fault:
            self._record(
                p.Notice(
                    f"the log of this session cannot be written ({self.log.fault}): its newest output is kept in "
                    "memory, and what is older may be lost to %modal_logs. Cells go on"
                )
            )
        patience = PATIENCE_SECONDS if can_wait(event) else 0.0
        self.broadcast_by = min(self.broadcast_by, self.now() + patience)

    def _record_output(self, event: p.Output) -> None:
        """Log text; what is past the limit of its run is not sent to clients."""
        flow = self.flows.get(event.run)
        shown, withheld = flow.admit(event.text) if flow is not None else (event.text, "")
        if not withheld:
            self._record(event)
            return
        if shown:
            self._record(msgspec.structs.replace(event, text=shown))
        self._record(msgspec.structs.replace(event, text=withheld), withheld=True)

    def _broadcast(self, everything: bool = False) -> None:
        """Send clients what they do not have yet, for a slice of time; those that are behind go on at the next turn."""
        newest, until = self.log.newest, self.now() + SLICE_SECONDS
        self.broadcast_by = math.inf
        batches: dict[int, tuple[bytes, int]] = {}
        for identity, client in list(self.clients.items()):
            full = False
            while client.sent < newest and not full:
                if client.sent not in batches:
                    records, after = self.log.since(client.sent, BATCH_BYTES)
                    batches = {client.sent: (p.join(records), after)}
                batch, after = batches[client.sent]
                full = not self.client_door.send(identity, p.RECORDS, batch)
                if not full:
                    client.sent = after
                    if not everything and self.now() > until:
                        break
            while client.held and client.held[0][0] <= client.sent and not full:
                full = not self.client_door.send(identity, client.held[0][1])
                if not full:
                    client.held.popleft()
            if full or client.sent < newest:
                self.broadcast_by = min(self.broadcast_by, self.now() + (PATIENCE_SECONDS if full else 0.0))

    # -- effects

    def _handle(self, stimulus: s.Stimulus) -> None:
        queue = deque([stimulus])
        while queue:
            item = queue.popleft()
            try:
                effects = self.machine.handle(item)
            except s.UnexpectedEvent as error:
                # A rank that breaks the protocol is not to be trusted with another cell.
                self._record(p.Notice(f"{error}; the rank is started anew"))
                if isinstance(rank := getattr(item, "rank", None), int):
                    node_rank = self.machine.plan.topology.node_of(rank)
                    self._tell(node_rank, p.KillRanks([rank]))
                continue
            for effect in effects:
                self._perform(effect)

    def _perform(self, effect: s.Effect) -> None:
        match effect:
            case s.Log(event=event):
                if isinstance(event, p.Submitted):
                    self.last_run = event.run
                    if event.run in self.flows and event.attempt == 1:
                        self.flows[event.run].began = self.now()
                elif isinstance(event, p.RunEnded) and event.run in self.flows:
                    flow = self.flows[event.run]
                    seconds = self.now() - flow.began
                    event = msgspec.structs.replace(event, seconds=seconds, withheld=flow.withheld)
                self._record(event)
            case s.Tell(node_rank=node_rank, order=order):
                self._tell(node_rank, order)
            case s.Answer(client=client, reply=reply):
                self._broadcast()  # what happened before the answer comes before it
                self._reply(client, reply, self.log.newest)
            case s.SetTimer(timer=timer, seconds=seconds):
                self.timers.set(timer, None if seconds is None else self.now() + seconds)
            case s.End(reason=reason):
                self._broadcast(everything=True)
                self.ended = reason

    def _tell(self, node_rank: int, order: p.Order) -> None:
        data = p.encode(order)
        for identity, (number, _) in self.nodes.items():
            if number == node_rank:
                self.node_door.send(identity, data)

    def _beat(self, now: float) -> None:
        beat = p.encode(p.Beat())
        for identity, (node_rank, heard) in list(self.nodes.items()):
            self.node_door.send(identity, beat)
            if now - heard > p.SILENCE_SECONDS and not self.node_door.waiting():
                del self.nodes[identity]
                self._handle(s.NodeGone(node_rank, f"is on node {node_rank}, which stopped answering"))
        gone = [identity for identity, client in self.clients.items() if now - client.heard > 2 * p.SILENCE_SECONDS]
        for identity in gone:
            del self.clients[identity]
        if gone:
            self._handle(s.Attendance(len(self.clients)))
        for identity in self.clients:
            self.client_door.send(identity, beat)
