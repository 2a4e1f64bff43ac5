"""A session's machine on a bench: fed by hand, with nodes and ranks that do exactly what their orders say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from modal_magic import protocol as p
from modal_magic import state as s
from modal_magic.topology import Topology

Kind = TypeVar("Kind", bound=p.Message)

CLIENT = b"client"


@dataclass(slots=True)
class Worker:
    """The process of a rank: the group it was told to join, the last it has joined or failed to, the run it is in."""

    generation: int
    joined: int = 0
    failed: int = 0
    together: bool = True
    launched: bool = False
    run: str = ""
    started: bool = False
    leaving: bool = False

    @property
    def waits(self) -> bool:
        """Whether it is on its way to a group, and so comes to no cell."""
        return self.generation not in (self.joined, self.failed)


def execute(run: str, source: str = "pass") -> p.Execute:
    return p.Execute(run, source, 1, 2)


def error(text: str = "boom", kind: p.ErrorKind = "exception") -> p.RemoteError:
    return p.RemoteError("ValueError", text, [f"ValueError: {text}"], 3, kind)


EVENTS: dict[type[p.Message], p.RankEvent] = {
    p.Launched: p.Launched(0, 1),
    p.Grouped: p.Grouped(0, 1, "cpu", 0.1),
    p.GroupFailed: p.GroupFailed(0, 1, error()),
    p.Started: p.Started(0, "a"),
    p.Finished: p.Finished(0, "a", 1.0, p.Health()),
    p.Failed: p.Failed(0, "a", 1.0, p.Health(), error()),
    p.Interrupted: p.Interrupted(0, "a", 1.0, p.Health(), "the cell"),
    p.Lost: p.Lost(0, "was killed"),
}
"""One event of each kind that a rank can send."""


class Rig:
    """A machine, all that it has said so far, and what its nodes and ranks have yet to do.

    `feed` gives the machine one stimulus. `play` has everybody do what they were told until nobody has anything to say;
    cells go on until `finish`, `fail` or an interrupt. `stillborn` are ranks whose process dies before it says a word,
    `stuck` ones whose process joins no group until it is another one.
    A lenient one is fed nonsense, and does not wonder at what follows.
    """

    lenient = False

    def __init__(
        self,
        nodes: int = 1,
        ranks_per_node: int = 4,
        *,
        grouped: bool = True,
        accelerated: bool = False,
        lease: float = 600.0,
        idle: float | None = None,
        max_lifetime: float | None = None,
        patience: float | None = None,
        stillborn: Iterable[int] = (),
    ) -> None:
        self.topology = Topology(nodes, ranks_per_node)
        store = p.Store("127.0.0.1", 29400, "prefix") if grouped else None
        settings = s.Settings(
            self.topology, grouped, accelerated, True, {"COLOUR": "red"}, store, lease, idle, max_lifetime, patience
        )
        self.machine = s.Machine(settings)
        self.grouped = grouped
        self.stillborn = set(stillborn)
        self.stuck: set[int] = set()
        self.effects: list[s.Effect] = []
        self.workers: dict[int, Worker] = {}
        self.unseen: dict[int, Worker] = {}
        self.doomed: list[int] = []
        self.leaving: list[int] = []
        self.timers: dict[str, float] = {}

    # -- feeding

    def feed(self, stimulus: s.Stimulus) -> list[s.Effect]:
        """Give the machine a stimulus, and its orders to nodes and ranks. Returns its effects."""
        if isinstance(stimulus, s.NodeGone):
            for rank in self.topology.ranks_of(stimulus.node_rank):
                worker = self.workers.pop(rank, None)
                if stimulus.silent and worker is not None:
                    self.unseen[rank] = worker
        elif isinstance(stimulus, p.RankEvent) and stimulus.rank in self.workers:
            self._said(self.workers[stimulus.rank], stimulus)
        effects = self.machine.handle(stimulus)
        self.effects += effects
        for effect in effects:
            if isinstance(effect, s.Tell):
                self._obey(effect.node_rank, effect.order)
            elif isinstance(effect, s.SetTimer):
                if effect.seconds is None:
                    self.timers.pop(effect.timer, None)
                else:
                    self.timers[effect.timer] = effect.seconds
        return effects

    def ask(self, request: p.Run | p.InterruptRun | p.Restart | p.Stop, client: bytes = CLIENT) -> list[s.Effect]:
        return self.feed(s.Asked(client, request))

    def run(
        self,
        run: str,
        ranks: list[int] | None = None,
        timeout: float | None = None,
        retries: p.Retries | None = None,
    ) -> list[s.Effect]:
        return self.ask(p.Run(execute(run), ranks, None, timeout, retries))

    def fire(self, timer: str) -> list[s.Effect]:
        """Let a timer that was set run out."""
        del self.timers[timer]
        return self.feed(s.Fired(timer))

    def join(self, *nodes: int, accelerators: int = 0) -> None:
        """Have these nodes join (none named: all)."""
        for node_rank in nodes or range(self.topology.nodes):
            self.feed(s.NodeJoined(node_rank, f"10.0.0.{node_rank}", 29500, accelerators, 8))

    def come_back(self, node_rank: int, *, but: Iterable[int] = ()) -> list[s.Effect]:
        """A node that fell silent speaks again; its workers are there, `but` for these."""
        workers = [(rank, self.unseen.pop(rank)) for rank in self.topology.ranks_of(node_rank) if rank in self.unseen]
        workers = [(rank, worker) for rank, worker in workers if rank not in but]
        self.workers |= dict(workers)
        alive = tuple(p.Alive(rank, 1000 + rank, worker.launched, worker.run) for rank, worker in workers)
        return self.feed(s.NodeJoined(node_rank, f"10.0.0.{node_rank}", 29500, 0, 8, workers=alive))

    def ready(self) -> Rig:
        """Bring the session up, with a client attached."""
        self.feed(s.Attendance(1))
        self.join()
        self.play()
        return self

    # -- what ranks do of themselves

    def finish(self, run: str, *ranks: int, health: p.Health | None = None) -> None:
        """These ranks (none named: all that owe it) come to the end of the cell."""
        self._end(run, ranks, lambda rank: p.Finished(rank, run, 1.0, health or p.Health()))

    def fail(self, run: str, *ranks: int, kind: p.ErrorKind = "exception", health: p.Health | None = None) -> None:
        """The cell raises on these ranks (none named: on all that owe it)."""
        self._end(run, ranks, lambda rank: p.Failed(rank, run, 1.0, health or p.Health(), error(kind=kind)))

    def leave(self, run: str, *ranks: int) -> None:
        """These ranks leave the cell because they were told to."""
        self._end(run, ranks, lambda rank: p.Interrupted(rank, run, 1.0, p.Health(severed=True), "cell line 1"))

    def lose(self, *ranks: int) -> None:
        """The processes of these ranks die."""
        for rank in ranks:
            self.feed(p.Lost(rank, "was killed by SIGKILL"))

    def _end(
        self, run: str, ranks: tuple[int, ...], make: Callable[[int], p.Finished | p.Failed | p.Interrupted]
    ) -> None:
        for rank in ranks or [rank for rank, worker in self.workers.items() if worker.run == run]:
            self.feed(make(rank))

    # -- what nodes and ranks do because they were told to

    def play(self, turns: int = 1000) -> None:
        """Have everybody do what they were told, until nobody has anything to say."""
        for _ in range(turns):
            if not self.turn():
                return
        raise AssertionError(f"the session does not come to rest: {self.machine.state}")

    def turn(self) -> bool:
        """Have those do what they were told whose turn it is. Whether anybody had anything to do."""
        return self._nodes() or self._births() or self._meeting() or self._cells()

    def _nodes(self) -> bool:
        doomed, self.doomed = self.doomed, []
        for rank in doomed:
            if rank in self.workers:
                self.feed(p.Lost(rank, "was ended to be started anew"))
        leaving, self.leaving = self.leaving, []
        for node_rank in leaving:
            self.feed(s.NodeGone(node_rank, "stopped"))
        return bool(doomed or leaving)

    def _births(self) -> bool:
        born = [(rank, worker) for rank, worker in self.workers.items() if not worker.launched]
        for rank, worker in born:
            if rank in self.stillborn:
                self.feed(p.Lost(rank, "ended its process with exit code 1"))
            elif self.workers.get(rank) is worker:
                self.feed(p.Launched(rank, 1000 + rank))
        return bool(born)

    def _meeting(self) -> bool:
        """A process group forms when every rank of the world waits for the same one; alone, nobody waits."""
        here = [(rank, worker) for rank, worker in self.workers.items() if worker.launched and rank not in self.stuck]
        ready = [worker for _, worker in here if worker.together and worker.failed != worker.generation]
        whole = len(ready) == self.topology.world_size and len({worker.generation for worker in ready}) == 1
        joining = [
            (rank, worker)
            for rank, worker in here
            if worker.joined != worker.generation and (whole or not (self.grouped and worker.together))
        ]
        for rank, worker in joining:
            if self.workers.get(rank) is worker:
                self.feed(p.Grouped(rank, worker.generation, "cpu", 0.01))
        return bool(joining)

    def _cells(self) -> bool:
        here = [rank for rank, worker in self.workers.items() if not worker.waits]
        beginning = [rank for rank in here if self.workers[rank].run and not self.workers[rank].started]
        for rank in beginning:
            if not self.workers[rank].leaving:
                self.feed(p.Started(rank, self.workers[rank].run))
        leaving = [rank for rank in here if self.workers[rank].leaving]
        for rank in leaving:
            if rank in self.workers and self.workers[rank].leaving:
                self.leave(self.workers[rank].run, rank)
        return bool(beginning or leaving)

    def _said(self, worker: Worker, event: p.RankEvent) -> None:
        match event:
            case p.Launched():
                worker.launched = True
            case p.Grouped(generation=generation):
                worker.joined = generation
            case p.GroupFailed(generation=generation):
                worker.failed = generation
            case p.Started():
                worker.started = True
            case p.Finished() | p.Failed() | p.Interrupted():
                worker.run, worker.started, worker.leaving = "", False, False
            case p.Lost():
                del self.workers[event.rank]
                self.stuck.discard(event.rank)

    def _obey(self, node_rank: int, order: p.Order) -> None:
        match order:
            case p.Launch(places=places, generation=generation):
                for place in places:
                    assert self.lenient or place.rank not in self.workers, f"rank {place.rank} is started twice"
                    assert self.topology.node_of(place.rank) == node_rank
                    self.workers[place.rank] = Worker(generation)
            case p.RegroupRanks(ranks=ranks, generation=generation):
                for rank in ranks:
                    if rank in self.workers:
                        self.workers[rank].generation = generation
                        self.workers[rank].together = getattr(order, "together", True)
            case p.Submit(ranks=ranks, task=task):
                for rank in ranks:
                    self.workers[rank].run = task.run
            case p.InterruptRanks(ranks=ranks, run=run):
                for rank in ranks:
                    if rank in self.workers and self.workers[rank].run == run:
                        self.workers[rank].leaving = True
            case p.KillRanks(ranks=ranks):
                self.doomed += ranks
            case p.Shutdown():
                self.leaving.append(node_rank)

    # -- what was said

    def logged(self, kind: type[Kind], effects: list[s.Effect] | None = None) -> list[Kind]:
        """The events of a kind that the machine has had logged (in these effects, or ever)."""
        found = self.effects if effects is None else effects
        return [effect.event for effect in found if isinstance(effect, s.Log) and isinstance(effect.event, kind)]

    def told(self, kind: type[Kind], effects: list[s.Effect] | None = None) -> list[tuple[int, Kind]]:
        """The orders of a kind, each with its node (in these effects, or ever)."""
        found = self.effects if effects is None else effects
        return [
            (effect.node_rank, effect.order)
            for effect in found
            if isinstance(effect, s.Tell) and isinstance(effect.order, kind)
        ]

    def answered(self, kind: type[Kind]) -> list[Kind]:
        """The replies of a kind that clients were given."""
        return [e.reply for e in self.effects if isinstance(e, s.Answer) and isinstance(e.reply, kind)]

    @property
    def states(self) -> list[str]:
        """The state of every rank."""
        return [str(rank.state) for rank in self.machine.ranks]

    @property
    def ends(self) -> list[tuple[str, str, list[int]]]:
        """The ends of runs so far: id, status, culprits."""
        return [(end.run, end.status, end.culprits) for end in self.logged(p.RunEnded)]
