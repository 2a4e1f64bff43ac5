"""A model of agents: what `node/agent.py` does with orders, births and deaths."""

from __future__ import annotations

from dataclasses import dataclass

from modal_magic import protocol as p
from modal_magic.links.delivery import Delivery
from modal_magic.node.agent import EXIT_SECONDS, LEAVE_SECONDS
from tests.simulation.groups import Keeper
from tests.simulation.ranks import Programs, Rank
from tests.simulation.world import Wire, World

__all__ = ["Agent"]


@dataclass(eq=False, slots=True)
class Place:
    """What an agent knows of one worker."""

    rank: Rank
    launched: bool = False
    run: str = ""
    attempt: int = 1
    owes: bool = False
    kill_at: float | None = None
    verdict: str = ""
    forced: bool = False


class Agent:
    """The agent of one node, and its zygote."""

    def __init__(self, world: World, node_rank: int, keeper: Keeper | None, programs: Programs, life: int = 1) -> None:
        self.world, self.node_rank, self.keeper, self.programs, self.life = world, node_rank, keeper, programs, life
        self.name = f"node {node_rank}"
        self.identity = f"node-{node_rank}".encode()
        self.wire: Wire | None = None
        self.line = Delivery(1000 * life + node_rank, self.transmit)
        self.pending: list[p.NodeEvent] = []
        self.places: dict[int, Place] = {}
        self.pids = 100_000 * life + 1000 * node_rank
        self.alive = True
        self.leaving: str | None = None
        self.heard = world.now
        self.written: dict[tuple[str, int], list[str]] = {}
        self.deaths: list[tuple[float, int, bool]] = []
        self.ends: dict[tuple[str, int, int], float] = {}
        self.failures: list[tuple[float, int, str, int, p.ErrorKind]] = []

    @property
    def disturbed(self) -> bool:
        """Whether its connection has ever suffered."""
        return self.wire is not None and self.wire.last_fault >= 0

    # -- the gateway

    def join(self) -> None:
        """The first word, also where it is asked for again."""
        workers = [
            p.Alive(rank, here.rank.pid, here.launched, here.run if here.owes else "")
            for rank, here in self.places.items()
        ]
        predecessor = "was killed by SIGKILL" if self.life > 1 else ""
        self.tell(p.Joined(p.VERSION, self.node_rank, self.life, "10.0.0.1", 29500, 0, 4, workers, predecessor))

    def emit(self, event: p.NodeEvent) -> None:
        """Say what happened with all else that happens now, in one message."""
        if not self.pending:
            self.world.soon(self.flush)
        self.pending.append(event)

    def flush(self) -> None:
        """Send what is left to say."""
        if self.pending:
            events, self.pending = self.pending, []
            self.tell(p.Happened(events))

    def tell(self, report: p.Report) -> None:
        """Say something to the gateway, after what happened before."""
        self.flush()
        if self.alive and self.wire is not None:
            self.world.note(self.name, "▲", report)
            self.line.say(p.encode(report))

    def transmit(self, frames: list[bytes]) -> bool:
        """Send a message."""
        assert self.wire is not None
        if self.wire.full_until > self.world.now:
            return False
        self.wire.up(frames)
        return True

    def take(self, frames: list[bytes]) -> None:
        """The gateway says something."""
        if self.alive:
            self.heard = self.world.now
            data = self.line.take(frames, self.world.now)
            if data is not None:
                self.obey(p.decode_order(data))

    def beat(self) -> None:
        """Four times a second."""
        if self.alive:
            self.line.beat()
        if self.alive and self.leaving is None and self.world.now - self.heard > p.DEAD_MAN_SECONDS:
            self.leave("its gateway fell silent")

    def obey(self, order: p.Order) -> None:
        """Carry out an order."""
        match order:
            case p.Launch(places=places, generation=generation):
                for place in places:
                    self.launch(place.rank, generation)
            case p.Submit(ranks=ranks, task=task):
                for here in self.chosen(ranks):
                    here.run, here.attempt, here.owes = task.run, task.attempt, True
                    here.rank.take(task)
            case p.InterruptRanks(ranks=ranks, run=run):
                for here in self.chosen(ranks):
                    if here.run == run and here.owes:
                        here.rank.take(p.Interrupt(run, here.attempt))
                        if here.owes and here.kill_at is None:
                            here.kill_at = self.world.now + LEAVE_SECONDS
                            self.world.after(LEAVE_SECONDS, self.too_late, here, here.kill_at)
            case p.RegroupRanks(ranks=ranks, generation=generation, together=together):
                for here in self.chosen(ranks):
                    here.rank.take(p.Regroup(generation, together))
            case p.KillRanks(ranks=ranks, cause=cause):
                for here in self.chosen(ranks):
                    here.verdict = here.verdict or cause
                    self.kill(here)
            case p.Rejoin():
                self.join()
            case p.Shutdown():
                self.leave("stopped")

    def chosen(self, ranks: list[int]) -> list[Place]:
        """The workers of these ranks that are here."""
        return [self.places[rank] for rank in ranks if rank in self.places]

    def too_late(self, here: Place, kill_at: float) -> None:
        """A rank has not left in time."""
        if self.alive and here.kill_at == kill_at:
            here.kill_at, here.forced = None, True
            here.verdict = "did not leave the cell and was killed"
            self.kill(here)

    # -- workers

    def launch(self, rank: int, generation: int) -> None:
        """Have a worker forked."""
        self.pids += 1
        worker = Rank(self.world, self, self.keeper, self.programs, rank, self.pids)
        self.places[rank] = Place(worker)
        self.world.after(self.world.between(2e-3, 0.05), self.born, worker, generation)

    def born(self, worker: Rank, generation: int) -> None:
        """The fork has come to its first words."""
        if worker.alive and self.alive:
            self.world.note(worker.name, f"   is born, pid {worker.pid}")
            worker.born(generation)

    def kill(self, here: Place) -> None:
        """End the process of a worker."""
        self.world.after(self.world.between(2e-4, 5e-3), here.rank.die, "was killed by SIGKILL")

    def hear(self, rank: Rank, event: p.NodeEvent) -> None:
        """A worker says something."""
        here = self.places.get(rank.rank)
        ends = isinstance(event, p.Finished | p.Failed | p.Interrupted)
        if here is not None and here.rank is rank and ends and getattr(event, "run", None) == here.run:
            here.owes, here.kill_at = False, None
        if here is not None and here.rank is rank and isinstance(event, p.Launched):
            here.launched = True
        self.emit(event)

    def ended(self, rank: Rank, event: p.Finished | p.Failed | p.Interrupted) -> None:
        """What truly was the end of a cell on a rank."""
        self.ends[event.run, rank.attempt, rank.rank] = self.world.now
        if isinstance(event, p.Failed):
            self.failures.append((self.world.now, rank.rank, event.run, rank.attempt, event.error.kind))

    def write(self, rank: Rank, text: str) -> None:
        """A worker writes; what is in its pipe is read also when it dies."""
        if self.alive:
            run = self.places[rank.rank].run
            self.written.setdefault((run, rank.rank), []).append(text)
            self.emit(p.Output(rank.rank, run, "stdout", text))

    def died(self, rank: Rank, cause: str) -> None:
        """A process is gone; the zygote says so in a moment."""
        here = self.places.get(rank.rank)
        self.deaths.append((self.world.now, rank.rank, here is not None and here.forced))
        self.world.note(rank.name, f"   dies: {cause}")
        self.world.after(self.world.between(5e-4, 1e-2), self.bury, rank, cause)

    def bury(self, rank: Rank, cause: str) -> None:
        """Say that a rank is lost."""
        here = self.places.get(rank.rank)
        if not self.alive or here is None or here.rank is not rank:
            return
        del self.places[rank.rank]
        if self.leaving is None:
            self.emit(p.Lost(rank.rank, here.verdict or cause, here.forced))
        self.leave_when_empty()

    # -- ends

    def leave(self, reason: str) -> None:
        """Ask all workers to end, and leave when they have."""
        if self.leaving is None:
            self.leaving = reason
            for here in list(self.places.values()):
                here.rank.take(p.Exit())
            self.world.after(EXIT_SECONDS, self.end_all)
            self.leave_when_empty()

    def end_all(self) -> None:
        """Those that are late to end are killed."""
        for here in list(self.places.values()):
            self.kill(here)

    def leave_when_empty(self) -> None:
        """The last word."""
        if self.alive and self.leaving is not None and not self.places:
            self.tell(p.Left(self.leaving))
            self.alive = False

    def die(self) -> None:
        """SIGKILL: its workers go with it, and nobody says a word."""
        self.world.note(self.name, "-- is killed")
        self.alive = False
        if self.wire is not None:
            self.wire.cut()
        for here in list(self.places.values()):
            here.rank.die("its agent is gone")
