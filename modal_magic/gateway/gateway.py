"""The gateway: performs the machine's effects, keeps the log, serves clients and nodes. No socket, no thread."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.gateway.agents import Agents
from modal_magic.gateway.clients import Clients
from modal_magic.gateway.door import Door
from modal_magic.gateway.flow import Flows
from modal_magic.gateway.known_runs import RUNS
from modal_magic.gateway.log import EventLog
from modal_magic.gateway.stacks import StackDesk
from modal_magic.gateway.status import status_of
from modal_magic.gateway.timers import Timers
from modal_magic.live import CURVES, LiveTable
from modal_magic.specs import GatewaySpec
from modal_magic.topology import Topology

__all__ = ["Gateway"]

PAGE_BYTES = 1024 * 1024
"""A page of the log has about so much."""

FAREWELL_SECONDS = 2.0
"""How long a gateway that ends waits for clients that listen and have not taken all that it has for them."""

LIVE_SECONDS = 0.1
"""How often clients are told what changes all the time."""

PATIENT = p.RunQueued | p.Submitted | p.Started | p.Finished | p.Staged
"""Events that nobody waits for: they go to clients with the next one that somebody does, or after the time below."""
PATIENCE_SECONDS = 0.01


def can_wait(event: p.Event) -> bool:
    """Whether nobody waits for an event: then a short cell wakes its kernel once, at its end."""
    return isinstance(event, PATIENT) or (isinstance(event, p.SessionChanged) and event.state == "running")


class Gateway:
    """One session's truth. `serving` gives it what comes in, its turns, and the time: monotonic, and since 1970.

    A class because a file must be closed.
    """

    def __init__(
        self,
        spec: GatewaySpec,
        store: p.Store | None,
        clients: Door,
        nodes: Door,
        now: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.spec = spec
        self.now, self.wall = now, wall
        self.agents = Agents(nodes, spec.nodes)
        topology = Topology(spec.nodes, spec.ranks_per_node)
        self.machine = s.Machine(
            s.Settings(
                topology,
                grouped=store is not None,
                accelerated=spec.accelerated,
                i6pn=spec.i6pn,
                environment=spec.environment,
                store=store,
                lease=spec.lease,
                idle=spec.idle,
                max_lifetime=spec.max_lifetime,
                patience=spec.patience,
            )
        )
        self.log = EventLog(Path(spec.folder), spec.log_limit)
        self.stacks = StackDesk(self.machine, self.agents.tell, self._reply, self._record)
        self.began = now()
        self.next_beat = self.began
        self.timers = Timers()
        self.live = LiveTable()
        self.live_by = math.inf
        self.clients = Clients(clients, self.log, self.live)
        self.flows = Flows(RUNS)
        self.broadcast_by = math.inf
        self.noticed: set[str] = set()
        self.last_run: str | None = None
        self.startup = s.Startup(spec.stages, spec.nodes, topology.world_size, self.wall())
        self.leaving: str | None = None
        self.leave_by = math.inf
        self.ended: str | None = None
        self._handle(s.Attendance(0))

    # -- the loop's side

    def due(self) -> float:
        """When `turn` has something to do that no message brings."""
        due = self.timers.due.values()
        return min([self.next_beat, *due, self.broadcast_by, self.live_by, self.stacks.due(), self.leave_by])

    def turn(self) -> None:
        """Do what is due: beats, timers, and records that clients wait for."""
        now = self.now()
        if now >= self.next_beat:
            late, self.next_beat = now - self.next_beat, now + p.BEAT_SECONDS
            self._beat(now, late if late > p.BEAT_SECONDS else 0.0)
        for timer in self.timers.fired(now):
            self._handle(s.Fired(timer))
        self.stacks.turn(now)
        if self.now() >= self.broadcast_by:
            self._broadcast()
        if self.now() >= self.live_by:
            self._tell_live()
        self._leave_when_told()

    def close(self, reason: str) -> None:
        """Say goodbye to every client, and leave no file of a session that ended as it should."""
        self.clients.farewell(reason)
        self._broadcast(everything=True)
        self.log.close(keep=self.ended is None)

    # -- nodes

    def from_node(self, identity: bytes, frames: list[bytes]) -> None:
        """Take a message of an agent. Raises one of `protocol.NOISE` when it is none."""
        node_rank, report = self.agents.take(identity, frames, self.now()) or (-1, None)
        match report:
            case p.Joined():
                self._record_stages(self.startup.joined(node_rank, report.stages, self.wall()))
                self._handle(
                    s.NodeJoined(
                        node_rank,
                        report.address,
                        report.port,
                        report.accelerators,
                        report.cores,
                        report.pid,
                        tuple(report.workers),
                        report.predecessor,
                    )
                )
            case p.Happened():
                for event in report.events:
                    self._take(node_rank, event)
            case p.Left():
                self._lose(s.NodeGone(node_rank, f"left: {report.reason}", returns=report.returns))

    def _take(self, node_rank: int, event: p.NodeEvent) -> None:
        rank = getattr(event, "rank", None)
        if rank is not None and rank not in self.machine.settings.topology.ranks_of(node_rank):
            return
        if isinstance(event, p.Output):
            for part, withheld in self.flows.divide(event):
                self._record(part, withheld)
            return
        if isinstance(event, p.Progress | p.Metric | p.Usage):
            if self.live.take(event):
                self.live_by = min(self.live_by, self.now() + LIVE_SECONDS)
            else:
                self._note_once(
                    f"rank {event.rank} has reported more than {CURVES} metrics by different names: of it, and of any "
                    "other rank that does so, further names are left out. The cell goes on",
                    about="metrics",
                )
            return
        if self.stacks.hear(event, self.now()):
            return
        if isinstance(event, p.Notice):
            self._note_once(event.text)
            return
        self._record(event)
        if isinstance(event, p.RankEvent):  # the machine wants to hear these; the others are only logged
            self._handle(event)

    def _lose(self, gone: s.NodeGone) -> None:
        """A node is gone. What is said of it when it comes back, or goes again, is news, whatever was said before."""
        self.noticed.clear()
        self._handle(gone)

    def _note_once(self, text: str, about: str = "") -> None:
        """Tell everyone, but once about each matter: nodes that share a machine have the same to say."""
        if (about or text) not in self.noticed:
            self.noticed.add(about or text)
            self._record(p.Notice(text))

    # -- clients

    def from_client(self, identity: bytes, frames: list[bytes]) -> None:
        """Take a message of a client. Raises one of `protocol.NOISE` when it is none."""
        request = self.clients.take(identity, frames, self.now())
        match request:
            case p.Attach():
                self._attach(identity, request)
            case p.Detach():
                self._handle(s.Attendance(len(self.clients)))
            case p.Run():
                ranks = self.machine.settings.topology.world_size if request.ranks is None else len(request.ranks) or 1
                self.flows.add(request.task.run, request.output_limit, ranks, self.now())
                self._handle(s.Asked(identity, request))
            case p.InterruptRun(run=run) if run not in self.clients.runs:
                self._reply(identity, p.Refused(run, "the session knows no such run"))
            case p.InterruptRun() | p.Restart() | p.SetLimits() | p.Stop():
                self._handle(s.Asked(identity, request, self.now() - self.began))
            case p.AskStatus():
                self._reply(identity, self._status(request.request))
            case p.AskLog():
                run = request.run or self.last_run or ""
                self._reply(identity, self.log.page(request.request, run, request.ranks, request.after, PAGE_BYTES))
            case p.AskStack():
                self.stacks.ask(identity, request, self.now())

    def _attach(self, identity: bytes, request: p.Attach) -> None:
        if request.version != p.VERSION:
            reason = f"the session speaks protocol {p.VERSION}, this modal_magic {request.version}: restart the session"
            self._reply(identity, p.Refused(request.client, reason))
            return
        machine = self.machine
        going = machine.queue.runs
        if machine.active is not None:
            going.append(machine.active.run)
        welcome = p.Attached(
            p.VERSION,
            self.spec.session,
            machine.settings.topology.world_size,
            0,
            0,
            str(machine.state),
            [],
            self.startup.stages,
        )
        self.clients.attach(identity, request, welcome, going, self.now())
        self._broadcast()
        self._handle(s.Attendance(len(self.clients)))

    def _reply(self, identity: bytes, reply: p.Reply) -> None:
        self.clients.reply(identity, reply)
        self._broadcast()

    def _status(self, request: str) -> p.Status:
        now = self.now()
        left = {timer: due - now for timer, due in self.timers.due.items()}
        return status_of(request, self.spec, self.machine, self.live, self.clients.reachable, now - self.began, left)

    # -- the log

    def _record(self, event: p.Event, withheld: bool = False) -> None:
        sound = not self.log.fault
        self.log.append(event, self.wall(), withheld)
        if isinstance(event, p.RunEnded):
            self.clients.runs.ended(event.run)  # now: other records may follow from it
        if sound and self.log.fault:
            self._record(
                p.Notice(
                    f"the log of this session cannot be written ({self.log.fault}): its newest output is kept in "
                    "memory, and what is older may be lost to %modal_logs. Cells go on"
                )
            )
        patience = PATIENCE_SECONDS if can_wait(event) else 0.0
        self.broadcast_by = min(self.broadcast_by, self.now() + patience)
        if not self.startup.over:
            self._record_stages(self.startup.hear(event, self.wall()))

    def _record_stages(self, stages: list[p.Stage]) -> None:
        for stage in stages:
            self._record(p.Staged(stage))

    def _broadcast(self, everything: bool = False) -> None:
        """Bring every client up to date, or say when that goes on; or all that they take now."""
        again = self.clients.broadcast()
        while everything and again == 0.0:
            again = self.clients.broadcast()
        self.broadcast_by = math.inf if again is None else self.now() + again

    def _tell_live(self) -> None:
        self._broadcast()
        self.live_by = math.inf
        self.clients.tell_live()

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
                    node_rank = self.machine.settings.topology.node_of(rank)
                    self.agents.tell(node_rank, p.KillRanks([rank]))
                effects = error.effects
            # Orders first: what is recorded meanwhile costs the ranks no time, and no node answers before this is over.
            for effect in sorted(effects, key=lambda effect: not isinstance(effect, s.Tell)):
                self._perform(effect)

    def _perform(self, effect: s.Effect) -> None:
        match effect:
            case s.Log(event=event):
                if isinstance(event, p.Submitted):
                    self.last_run = event.run
                    if event.attempt == 1:
                        self.flows.begin(event.run, self.now())
                elif isinstance(event, p.RunEnded):
                    if math.isfinite(self.live_by):
                        self._tell_live()  # a client is done with a run when it is over
                    event = self.flows.end(event, self.now())
                self._record(event)
            case s.Tell(node_rank=node_rank, order=order):
                self.agents.tell(node_rank, order)
            case s.Answer(client=client, reply=reply):
                self._reply(client, reply)
            case s.SetTimer(timer=timer, seconds=seconds):
                self.timers.set(timer, None if seconds is None else self.now() + seconds)
            case s.End(reason=reason):
                self.leaving, self.leave_by = reason, self.now() + FAREWELL_SECONDS
                self.clients.farewell(reason)
                self._broadcast(everything=True)
                self._leave_when_told()

    def _leave_when_told(self) -> None:
        """End when every client has all that there is for him; one whose queue is full is waited for a while."""
        if self.leaving is not None and (self.now() >= self.leave_by or self.clients.told(self.now())):
            self.ended = self.leaving

    def _beat(self, now: float, late: float) -> None:
        """Say that this gateway lives, and see who else does. For `late` seconds it could not listen."""
        for node_rank in self.agents.beat(now, late):
            self._lose(s.NodeGone(node_rank, "stopped answering", silent=True))
        if self.clients.beat(now, late):
            self._handle(s.Attendance(len(self.clients)))
        self._broadcast()
