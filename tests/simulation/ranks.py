"""A model of workers: what `node/worker.py` and `frameworks/torch.py` do, in steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from modal_magic import protocol as p
from modal_magic.node.worker import POLITE_SECONDS
from tests.simulation.groups import Group, Keeper
from tests.simulation.world import World

__all__ = ["Kind", "Program", "Programs", "Rank", "Step"]

Kind = Literal["print", "compute", "collective", "issue", "raise", "die", "exit", "stuck", "stubborn"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a cell does on a rank; `seconds` is how long it takes, where it does."""

    kind: Kind
    seconds: float = 0.0


Program = Sequence[Step]
Programs = dict[str, tuple[dict[int, Program], ...]]
"""What each rank does in each run, by the attempt; the last goes for all that follow."""


class Node(Protocol):
    """What a worker needs of its agent."""

    def hear(self, rank: Rank, event: p.NodeEvent) -> None:
        """A worker says something."""
        ...

    def ended(self, rank: Rank, event: p.Finished | p.Failed | p.Interrupted) -> None:
        """A worker has come to the end of a cell, and is about to say so."""
        ...

    def write(self, rank: Rank, text: str) -> None:
        """A worker writes to its stdout."""
        ...

    def died(self, rank: Rank, cause: str) -> None:
        """The process of a worker is gone."""
        ...


class Rank:
    """A worker: the main thread does one task after the other, the control thread can be spoken to."""

    def __init__(
        self,
        world: World,
        node: Node,
        keeper: Keeper | None,
        programs: Programs,
        rank: int,
        pid: int,
    ) -> None:
        self.world, self.node, self.keeper, self.programs = world, node, keeper, programs
        self.rank, self.pid = rank, pid
        self.alive = True
        self.name = f"rank {rank}"
        self.group: Group | None = None
        self.severed = False
        self.wanted = self.gathers = self.connects = 0
        self.inbox: deque[p.Task] = deque()
        self.busy = True
        self.running = ""
        self.attempt = 1
        self.unwanted: set[tuple[str, int]] = set()
        self.steps: deque[Step] = deque()
        self.here: Step | None = None
        self.leaving = False
        self.token = 0
        self.waits_for: tuple[Group, int] | None = None
        self.stuck = False
        self.heard_stuck: list[p.Task] = []
        self.lines = self.calls = 0

    @property
    def doing(self) -> tuple[str, int]:
        """The run whose cell is being run, and which attempt of it."""
        return self.running, self.attempt

    # -- the control thread

    def take(self, task: p.Task) -> None:
        """The agent says something."""
        if not self.alive:
            return
        if self.stuck:
            self.heard_stuck.append(task)
            return
        match task:
            case p.Interrupt(run=run, attempt=attempt):
                self.unwanted.add((run, attempt))
                if self.doing == (run, attempt):
                    self.signal()
                    self.world.after(POLITE_SECONDS, self.insist, run, attempt)
            case p.Exit():
                self.unwanted.add(self.doing)
                self.signal()
                self.inbox.append(task)
                self.next()
            case _:
                if isinstance(task, p.Regroup):
                    self.supersede(task.generation)
                self.inbox.append(task)
                self.next()

    def supersede(self, generation: int) -> None:
        """A newer generation: one that still gathers or connects for an older one gives that up."""
        self.wanted = max(self.wanted, generation)
        if self.gathers and self.wanted > self.gathers:
            self.gathers = 0
            self.idle()
        elif self.connects and self.wanted > self.connects:
            self.world.after(self.world.between(1e-3, 0.03), self.give_up, self.connects)

    def give_up(self, generation: int) -> None:
        """The connections that were being made have been cut."""
        if self.alive and self.connects == generation:
            self.connects = 0
            self.idle()

    def signal(self) -> None:
        """SIGINT: the main thread leaves the run if Python runs there."""
        if not self.running or self.doing not in self.unwanted or self.here is None:
            return
        if self.here.kind == "stubborn" and not self.leaving:
            self.leaving = True
            self.token += 1
            self.world.after(0.3, self.leave, self.token)
        elif self.here.kind == "compute":
            self.leave(self.token)

    def insist(self, run: str, attempt: int) -> None:
        """The signal was not enough: cut the connections of the group, and signal again."""
        if not self.alive or self.stuck or self.doing != (run, attempt) or self.doing not in self.unwanted:
            return
        if self.leaving:  # it has heard the signal, waits for nobody and may be saving its work
            return
        self.severed = True
        if self.group is not None:
            self.group.shatter(self)
        if self.waits_for is not None:
            self.leave(self.token)
        else:
            self.signal()

    # -- the main thread

    def born(self, generation: int) -> None:
        """The first words of a worker, and its first group."""
        self.say(p.Launched(self.rank, self.pid))
        self.join(generation, True)

    def idle(self) -> None:
        """The main thread looks for its next task."""
        self.busy = False
        self.next()

    def next(self) -> None:
        """Do the next task, if none is being done."""
        while self.alive and not self.busy and self.inbox:
            match self.inbox.popleft():
                case p.Execute(run=run, attempt=attempt):
                    self.busy = True
                    self.execute(run, attempt)
                case p.Regroup(generation=generation, together=together):
                    self.busy = True
                    self.join(generation, together)
                case p.Exit():
                    self.die("")

    def join(self, generation: int, together: bool) -> None:
        """Join a generation's group, or be without one."""
        if self.wanted > generation:
            self.idle()
            return
        if self.group is not None:
            self.group.shatter(self)
            self.group = None
        if self.keeper is None or not together:
            self.say(p.Grouped(self.rank, generation, "cpu", 0.0, self.health()))
            self.idle()
            return
        self.gathers = generation
        self.keeper.arrive(self, generation)

    def grouped(self, group: Group) -> None:
        """The group has formed."""
        if self.alive and self.connects == group.generation:
            self.connects = 0
            self.group, self.severed = group, False
            self.say(p.Grouped(self.rank, group.generation, "cpu", 0.01, self.health()))
            self.idle()

    def group_failed(self, generation: int) -> None:
        """The group could not form."""
        if self.alive and self.connects == generation:
            self.connects = 0
            self.say(p.GroupFailed(self.rank, generation, error("communication")))
            self.idle()

    def execute(self, run: str, attempt: int) -> None:
        """Begin a cell."""
        self.attempt = attempt
        if (run, attempt) in self.unwanted:
            self.end(p.Interrupted(self.rank, run, 0.0, self.health(), "before it began"))
            return
        self.say(p.Started(self.rank, run))
        self.running, self.lines, self.calls = run, 0, 0
        attempts = self.programs[run]
        self.steps = deque(attempts[min(attempt, len(attempts)) - 1][self.rank])
        self.step()

    def step(self) -> None:
        """Do steps until one takes time."""
        while self.alive:
            if not self.steps:
                self.end(p.Finished(self.rank, self.running, 0.0, self.health()))
                return
            self.here = here = self.steps.popleft()
            self.token += 1
            match here.kind:
                case "print":
                    self.lines += 1
                    self.node.write(self, f"{self.running} {self.attempt} {self.rank} {self.lines}\n")
                case "issue":
                    if self.group is not None:
                        self.group.issue(self, self.label())
                case "collective":
                    self.enter()
                    return
                case "raise":
                    self.end(p.Failed(self.rank, self.running, 0.0, self.health(), error("exception")))
                    return
                case "exit":
                    self.end(p.Failed(self.rank, self.running, 0.0, self.health(), error("exit"), 3))
                    return
                case "die":
                    self.die("was killed by SIGKILL")
                    return
                case _:
                    self.stuck = here.kind == "stuck"
                    self.world.after(here.seconds, self.resume, self.token)
                    return

    def label(self) -> str:
        """What a collective is for: the same on all ranks, if they are in the same cell."""
        self.calls += 1
        return f"collective {self.calls} of {self.running}, attempt {self.attempt}"

    def enter(self) -> None:
        """Enter a collective and wait."""
        if self.group is None:
            self.end(p.Failed(self.rank, self.running, 0.0, self.health(), error("exception")))
        elif self.group.broken:
            self.world.after(self.world.between(1e-4, 1e-2), self.connection_error, self.token)
        else:
            self.waits_for = (self.group, self.group.issued[self.rank])
            self.group.issue(self, self.label())

    def collective_done(self, group: Group, number: int) -> None:
        """All have come to the collective."""
        if self.alive and self.waits_for == (group, number):
            self.waits_for = None
            self.step()

    def resume(self, token: int) -> None:
        """A step has taken its time."""
        if self.alive and token == self.token and self.running:
            if self.stuck:
                self.stuck = False
                heard, self.heard_stuck = self.heard_stuck, []
                self.here = Step("compute")  # between two lines of Python a signal is heard
                for task in heard:
                    self.take(task)
                if not self.running or token != self.token:
                    return
            self.step()

    def connection_error(self, token: int) -> None:
        """The group is broken: an error, or only what our own interrupt made of it."""
        if not self.alive or token != self.token or not self.running:
            return
        self.waits_for = None
        if self.doing in self.unwanted:
            self.leave(token)
        else:
            self.end(p.Failed(self.rank, self.running, 0.0, self.health(), error("communication")))

    def leave(self, token: int) -> None:
        """The interrupt has its way."""
        if self.alive and self.running and token == self.token:
            self.end(p.Interrupted(self.rank, self.running, 0.0, self.health(), "cell line 1"))

    def end(self, event: p.Finished | p.Failed | p.Interrupted) -> None:
        """The cell is over here."""
        self.running, self.here, self.waits_for, self.leaving = "", None, None, False
        self.node.ended(self, event)
        self.token += 1
        self.unwanted.discard((event.run, self.attempt))
        self.say(event)
        self.idle()

    def health(self) -> p.Health:
        """See `Framework`."""
        if self.keeper is None:
            return p.Health()
        if self.group is None:
            return p.Health(False, {}, self.severed)
        return p.Health(True, {"0": self.group.issued[self.rank]}, self.severed)

    def say(self, event: p.NodeEvent) -> None:
        """A word to the agent."""
        self.node.hear(self, event)

    def die(self, cause: str) -> None:
        """The process ends, whatever it was doing."""
        if not self.alive:
            return
        self.alive = False
        if self.group is not None:
            self.group.shatter(self)
        if self.connects and self.keeper is not None:
            self.keeper.fail(self.connects)
        self.node.died(self, cause)


def error(kind: p.ErrorKind) -> p.RemoteError:
    """An error of a cell."""
    return p.RemoteError("RuntimeError" if kind == "communication" else "ValueError", "boom", [], 3, kind)
