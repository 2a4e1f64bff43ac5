"""The agent: starts and watches the workers of a node, reads what they write, and is their only way to the gateway.

One thread. It has its workers forked by the zygote and never forks. Output comes through pipes, so a crash loses
nothing that was written before it, and C code and subprocesses are heard too; what a worker wrote before it said a
thing is sent before that thing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from modal_magic import protocol as p
from modal_magic.links.framing import frame
from modal_magic.links.link import Keys, connect
from modal_magic.links.waiting import READ, WRITE, Waiter
from modal_magic.links.wires import PairWire, Wire, ZmqWire, identity_of
from modal_magic.node.channel import Channel
from modal_magic.node.crashes import read_report
from modal_magic.node.interface import network_environment
from modal_magic.node.memory import MemoryWatch
from modal_magic.node.orphans import kill_group
from modal_magic.node.rank_process import RankProcess, cause_of_death, open_lines
from modal_magic.node.silent import is_stuck, last_seen, silence
from modal_magic.node.uplink import Uplink
from modal_magic.node.usage import SAMPLE, UsageWatch
from modal_magic.specs import (
    AgentSpec,
    End,
    Exited,
    Fork,
    Forked,
    Leave,
    WorkerSpec,
    decode_zygote_to_agent,
)

__all__ = ["run_agent"]

LEAVE_SECONDS = 1.5
"""How long a rank has to leave a run that it was told to leave, before it is killed."""
DOUBT_SECONDS = 0.6
"""How long one has that does not say a word and is stuck: C code holds the GIL, and waits for what does not come."""
ASK_SECONDS = 1.0
"""After so long, again and again, one that is to form its group anew is asked for a word, and has as long to say it. To
let go of the last group torch joins threads with the GIL held."""
LOOK_SECONDS = 0.02
"""How often it is looked at from then on."""
EXIT_SECONDS = 2.0
"""How long a worker has to end when the session does."""
UNWITNESSED = "is gone; with the zygote of its node gone too, nobody can say why"
UNANSWERED = 8
"""How many questions a worker is asked ahead of its answers: one that is stuck is not to be asked for ever."""


@dataclass(slots=True)
class Agent:
    """The agent of one node. A class because sockets must be closed."""

    spec: AgentSpec
    zygote: Channel | None
    gateway: Uplink
    network: dict[str, str]
    waiter: Waiter
    workers: dict[int, RankProcess] = field(default_factory=dict)
    readers: dict[int, Callable[[], None]] = field(default_factory=dict)
    port_holder: socket.socket | None = None
    memory: MemoryWatch = field(default_factory=MemoryWatch)
    usage: UsageWatch = field(default_factory=UsageWatch)
    notice_due: str = ""
    leaving: str | None = None
    returns: bool = False
    leave_by: float = 0.0
    gone: bool = False

    # -- the loop

    def serve(self) -> None:
        """Serve until the session ends, the gateway is gone, or nothing has been heard of it for too long."""
        assert self.zygote is not None
        self.readers[self.zygote.socket.fileno()] = self.from_zygote
        self.gateway.tell(self.joined())
        due = next_beat = 0.0
        while not self.gone:
            now = time.monotonic()
            if now >= due:
                if now >= next_beat:
                    next_beat = now + p.BEAT_SECONDS
                    self.gateway.beat()
                    self.memory.look()
                self.look_at_the_clock(now)
                self.gateway.flush()
            due = self.due(next_beat)
            self.turn(due - now)
            self.gateway.flush()
            self.leave_when_empty()
        self.waiter.close()
        self.gateway.wire.close()

    def turn(self, patience: float) -> None:
        """Wait for something to read and read it. While the gateway is behind, what ranks say is left where it is."""
        writable = self.gateway.takes_more()
        wanted = self.gateway.wire.wanted()
        if self.zygote is not None:
            wanted[self.zygote.socket.fileno()] = READ
        for worker in self.workers.values():
            descriptor = worker.channel.socket.fileno()
            events = (READ if writable and descriptor in self.readers else 0) | (WRITE if worker.control.rest else 0)
            if events:
                wanted[descriptor] = events
            if worker.tasks.rest:
                wanted[worker.tasks.socket.fileno()] = WRITE
            # A pipe whose text waits for company is read when that is over: one that is flooded would wake us per line.
            for pipe in worker.pipes:
                if writable and not pipe.ended and pipe.flush_at is None:
                    wanted[pipe.descriptor] = READ
        self.waiter.watch(wanted)
        ready = self.waiter.wait(patience, self.gateway.awaits)
        for order in self.gateway.orders(ready):
            self.obey(order)
        if not ready:
            return
        for worker in list(self.workers.values()):
            for outbox in (worker.control, worker.tasks):
                if outbox.rest and ready.get(outbox.socket.fileno(), 0) & WRITE:
                    outbox.push()
        for descriptor, events in ready.items():
            if events & READ and descriptor in self.readers:
                self.readers[descriptor]()
        if writable:
            for worker in list(self.workers.values()):
                self.read_output(worker, ready)

    def due(self, next_beat: float) -> float:
        """When something is due that no message will announce."""
        due = min(next_beat, self.usage.due())
        if self.leaving is not None:
            due = min(due, self.leave_by)
        for worker in self.workers.values():
            due = min(due, worker.due())
        return due

    def look_at_the_clock(self, now: float) -> None:
        """Kill those that did not leave in time; end a node that nobody speaks to; end workers that are late to end."""
        for worker in list(self.workers.values()):
            if any(when is not None and now >= when for when in (worker.kill_at, worker.doubt_at)):
                self.from_worker(worker)  # while the gateway is behind, what it says is left unread
            if worker.doubt_at is not None and now >= worker.doubt_at:
                worker.doubt_at = now + LOOK_SECONDS
                if is_stuck(worker.pid, worker.ticks):
                    after = f"{DOUBT_SECONDS:g} s after the interrupt{last_seen(worker.place, None)}"
                    when = after if worker.kill_at is not None else "as its group was formed anew"
                    self.give_up(worker, f"was stuck in C code {when} and was killed")
            if worker.kill_at is not None and now >= worker.kill_at:
                # One that has said a word since is not silent: it runs Python, and does not leave.
                known = last_seen(worker.place, None if worker.doubt_at is None else worker.pid)
                self.give_up(
                    worker, f"did not leave the cell within {LEAVE_SECONDS:g} s of the interrupt{known} and was killed"
                )
            if worker.ask_at is not None and now >= worker.ask_at:
                worker.ask_at = now + ASK_SECONDS
                if worker.launched and worker.doubt_at is None and worker.unanswered < UNANSWERED:
                    worker.say_a_word(now + ASK_SECONDS)
            if worker.speak_at is not None and now >= worker.speak_at:
                worker.speak_at = None
                worker.give(p.Speak())
            for request in [request for request, due in worker.asked.items() if now >= due]:
                del worker.asked[request]
                self.gateway.emit(p.StackTaken(worker.rank, request, None, [], silence(worker.pid)))
            for pipe in worker.pipes:
                if pipe.flush_at is not None and now >= pipe.flush_at:
                    pipe.read_all()
                    self.gateway.emit(worker.take(pipe, now))
        if now >= self.usage.due():
            self.gateway.emit(*self.usage.turn(self.workers.values(), now))
        if self.leaving is not None and now >= self.leave_by:
            self.leave_by = now + EXIT_SECONDS
            for worker in self.workers.values():
                self.kill(worker)
        if self.leaving is None and self.gateway.is_dead(now):
            self.leave("its gateway fell silent")

    # -- the gateway

    def joined(self) -> p.Joined:
        """The first word: who this is, where other nodes would reach it, and who lives here already."""
        if self.port_holder is None:
            # The port stays bound, not listening, for the life of the node: no other session is given it, and a script
            # that listens there (SO_REUSEADDR, as torch's store does) can.
            self.port_holder = socket.socket(socket.AF_INET6 if ":" in self.spec.address else socket.AF_INET)
            self.port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.port_holder.bind((self.spec.address, 0))
        return p.Joined(
            p.VERSION,
            self.spec.node_rank,
            os.getpid(),
            self.spec.address,
            self.port_holder.getsockname()[1],
            accelerators=max(0, count_accelerators() - self.spec.first_accelerator),
            cores=self.spec.cores,
            workers=[worker.alive() for worker in self.workers.values()],
            predecessor=self.spec.predecessor,
            stages=self.spec.stages,
        )

    def obey(self, order: p.Order) -> None:
        """Carry out an order."""
        match order:
            case p.Launch():
                if self.notice_due:  # not before the gateway knows this node
                    self.gateway.emit(p.Notice(self.notice_due))
                    self.notice_due = ""
                for place in order.places:
                    self.launch(
                        WorkerSpec(self.spec.session, place, order.generation, order.store, self.spec.framework)
                    )
            case p.Submit(ranks=ranks, task=task):
                for worker in self.chosen(ranks):
                    # What is in the pipes now was written before this run and belongs to the one before it.
                    self.gateway.emit(*worker.output(time.monotonic()))
                    worker.begin(task, time.monotonic())
                self.usage.begin(time.monotonic())
            case p.InterruptRanks(ranks=ranks, run=run):
                for worker in self.chosen(ranks):
                    if worker.run == run and worker.owes:
                        worker.give(p.Interrupt(run, worker.attempt))
                        now = time.monotonic()
                        worker.leave_by(now + LEAVE_SECONDS, now + DOUBT_SECONDS)
            case p.RegroupRanks(ranks=ranks, generation=generation, together=together):
                for worker in self.chosen(ranks):
                    worker.give(p.Regroup(generation, together))
                    worker.generation, worker.ask_at = generation, time.monotonic() + ASK_SECONDS
            case p.StackRanks(ranks=ranks, request=request, depth=depth):
                for worker in self.chosen(ranks):
                    worker.asked[request] = time.monotonic() + p.ANSWER_SECONDS
                    if worker.unanswered < UNANSWERED:
                        worker.unanswered += 1
                        worker.give(p.TakeStack(request, depth))
            case p.KillRanks(ranks=ranks, cause=cause):
                for worker in self.chosen(ranks):
                    worker.verdict = worker.verdict or cause
                    self.kill(worker)
            case p.Rejoin():
                if self.gateway.flush():  # what the list of workers already tells of comes before it
                    self.gateway.tell(self.joined())  # else our next beat has us asked again
            case p.Shutdown():
                self.leave("stopped")

    def chosen(self, ranks: list[int]) -> list[RankProcess]:
        """The workers of these ranks that are here."""
        return [self.workers[rank] for rank in ranks if rank in self.workers]

    def leave(self, reason: str, grace: float = 0.0) -> None:
        """Ask all workers to end, and leave when they have. With a grace (in seconds) they save what they have."""
        if self.leaving is None:
            self.leaving, self.returns = reason, bool(grace)
            self.leave_by = time.monotonic() + max(EXIT_SECONDS, grace)
            if grace:
                self.gateway.emit(p.Notice(f"node {self.spec.node_rank} is {reason}: its ranks save what they can"))
            for worker in self.workers.values():
                worker.give(p.Exit(bool(grace)))
            self.leave_when_empty()

    def leave_when_empty(self) -> None:
        """Say the last word once no worker is left, and all else is said or nobody hears it."""
        if self.leaving is None or self.workers or self.gone:
            return
        if self.gateway.flush() or self.gateway.is_dead(time.monotonic()):
            self.gateway.tell(p.Left(self.leaving, self.returns))
            self.gone = True

    # -- workers

    def launch(self, spec: WorkerSpec) -> None:
        """Have the zygote fork a worker, and keep our ends of its lines."""
        rank = spec.place.rank
        if self.spec.first_accelerator and "CUDA_VISIBLE_DEVICES" not in spec.place.environment:
            width = int(spec.place.environment["LOCAL_WORLD_SIZE"])
            visible = range(self.spec.first_accelerator, self.spec.first_accelerator + width)
            spec.place.environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, visible))
        for variable, value in self.network.items():
            spec.place.environment.setdefault(variable, value)
        worker, there = open_lines(rank)
        try:
            if self.zygote is None:
                raise BrokenPipeError
            socket.send_fds(self.zygote.socket, [frame(Fork(spec))], there)
        except OSError:
            worker.close()
            self.gateway.emit(p.Lost(rank, "cannot be started: the zygote of its node is gone", replaced=False))
            return
        finally:
            for descriptor in there:
                os.close(descriptor)
        self.workers[rank] = worker
        self.usage.add(rank, spec.place.environment)
        self.readers[worker.channel.socket.fileno()] = lambda: self.from_worker(worker)

    def from_worker(self, worker: RankProcess) -> None:
        """Pass on what a worker says, after what it wrote before it said so."""
        try:
            messages = worker.channel.receive()
        except ValueError:  # something in the rank has written to the socket
            worker.verdict = worker.verdict or "has broken the line to its agent and was killed"
            self.kill(worker)
            messages = None
        if messages is None:
            self.readers.pop(worker.channel.socket.fileno(), None)
            if self.zygote is None:
                self.bury(worker, UNWITNESSED)
            return
        if messages:
            worker.doubt_at = None  # Python runs there: whatever it does, it may need its time
            self.gateway.emit(*worker.output(time.monotonic()))
        for data in messages:
            try:
                event = p.decode_event(data)
            except p.NOISE:
                continue
            if isinstance(event, p.Launched):
                worker.launched = True
            elif isinstance(event, p.Grouped | p.GroupFailed) and event.generation == worker.generation:
                worker.ask_at = None
            elif isinstance(event, p.Finished | p.Failed | p.Interrupted) and event.run == worker.run:
                worker.owes, worker.kill_at, worker.speak_at = False, None, None
            if isinstance(event, p.StackTaken):
                worker.place = event.where
            if isinstance(event, p.StackTaken) and event.request == SAMPLE:
                worker.where, worker.sampled = event.where, True
                continue
            if isinstance(event, p.StackTaken):
                worker.unanswered -= 1
                if worker.asked.pop(event.request, None) is None:
                    continue  # it comes too late
            self.gateway.pass_on(data)
            if isinstance(event, p.Display):
                worker.give(p.Taken())

    def read_output(self, worker: RankProcess, ready: dict[int, int]) -> None:
        """Read the pipes that have something."""
        now = time.monotonic()
        for pipe in worker.pipes:
            if pipe.descriptor in ready:
                pipe.read()
                if pipe.due(now):
                    self.gateway.emit(worker.take(pipe, now))

    def give_up(self, worker: RankProcess, verdict: str) -> None:
        """End a rank that did not leave its run."""
        worker.kill_at, worker.doubt_at = None, None
        worker.forced, worker.verdict = True, verdict
        self.kill(worker)

    def kill(self, worker: RankProcess) -> None:
        """End the process of a rank and all that it started."""
        if self.zygote is not None:
            with contextlib.suppress(OSError):
                self.zygote.send(End(worker.rank))
        elif worker.pid:
            kill_group(worker.pid)

    def bury(self, worker: RankProcess, cause: str) -> None:
        """A worker is gone: read its last words and say so."""
        while worker.channel.socket.fileno() in self.readers:
            before = len(self.gateway.pending)
            self.from_worker(worker)
            if len(self.gateway.pending) == before:
                break
        self.readers.pop(worker.channel.socket.fileno(), None)
        self.gateway.emit(*worker.output(time.monotonic()))
        if (crash := read_report(worker.report)) is not None:
            self.gateway.emit(p.Output(worker.rank, worker.run, "stderr", crash.text))
            cause += crash.where
        worker.close()
        if self.zygote is None:
            self.kill(worker)  # what it has started: nobody else ends that now
        if self.workers.get(worker.rank) is worker:
            del self.workers[worker.rank]
        if self.leaving is None:
            self.gateway.emit(p.Lost(worker.rank, worker.verdict or cause, worker.forced, self.zygote is not None))
        self.leave_when_empty()

    # -- the zygote

    def from_zygote(self) -> None:
        """Learn of births and deaths."""
        assert self.zygote is not None
        words = self.zygote.receive()
        if words is None:
            self.readers.pop(self.zygote.socket.fileno(), None)
            self.zygote.close()
            self.zygote = None
            self.gateway.emit(
                p.Notice(
                    "the zygote is gone: ranks go on, but one that dies cannot be started again. %modal_stop, then anew"
                )
            )
            for worker in list(self.workers.values()):
                if worker.channel.socket.fileno() not in self.readers:
                    self.bury(worker, UNWITNESSED)
            return
        for data in words:
            match decode_zygote_to_agent(data):
                case Forked(rank=rank, pid=pid, warning=warning):
                    if rank in self.workers:
                        self.workers[rank].pid = pid
                    if warning:
                        self.gateway.emit(p.Notice(f"rank {rank}: {warning}"))
                case Exited(rank=rank, pid=pid, status=status):
                    if rank in self.workers and self.workers[rank].pid == pid:
                        self.bury(self.workers[rank], self.memory.explain(cause_of_death(status)))
                case Leave(reason=reason, grace=grace):
                    self.leave(reason, grace)


def count_accelerators() -> int:
    """How many GPUs this process can see; without torch, none that a rank could use."""
    torch = sys.modules.get("torch")
    return torch.cuda.device_count() if torch is not None else 0


def run_agent(spec: AgentSpec, zygote: socket.socket, line: socket.socket | None) -> None:
    """Be the agent of a node until the session ends. `line` leads to its gateway where one zygote has made them both;
    else it is reached over the network."""
    if line is not None:
        be_agent(spec, zygote, PairWire(line), Waiter())
        return
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    keys, name = Keys(spec.public_key, spec.secret_key), identity_of(spec.node_rank)
    gateway = connect(context, spec.gateway_host, spec.gateway_port, spec.gateway_key, keys, name, patient=False)
    be_agent(spec, zygote, ZmqWire(gateway), Waiter(gateway))
    context.destroy(linger=500)


def be_agent(spec: AgentSpec, zygote: socket.socket, wire: Wire, waiter: Waiter) -> None:
    """Serve on a wire, and on what leads to the zygote."""
    network = network_environment(spec.address)
    Agent(spec, Channel(zygote), Uplink(wire), network, waiter, notice_due=spec.notice).serve()
