"""A rank's process as its agent knows it: the lines to it, what it owes, and how it ended."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.links.framing import frame
from modal_magic.node.channel import Channel
from modal_magic.node.crashes import open_report
from modal_magic.node.pipes import OutputPipe, open_pipe
from modal_magic.node.silent import processor_ticks

__all__ = ["LINES", "RankProcess", "cause_of_death", "open_lines"]

SPEAK_SECONDS = 0.02
"""After so long a worker that has a cell is asked to say that it has begun. Most cells of a notebook end at once, and
then nobody needs to hear of that."""
LINES = 6
"""How many descriptors of its own a worker is given: `open_lines` has them in the order in which it takes them."""


@dataclass(slots=True)
class Outbox:
    """What one of a worker's threads is told. `rest` is what it has not read yet: an agent waits for no rank."""

    socket: socket.socket
    rest: bytearray = field(default_factory=bytearray)

    def give(self, task: p.Task) -> None:
        """Have a task sent, after those that are not yet read."""
        self.rest += frame(task)
        self.push()

    def push(self) -> None:
        """Send as much as the socket takes now. One that is gone will be reported by the zygote."""
        try:
            while self.rest:
                del self.rest[: self.socket.send(self.rest)]
        except BlockingIOError:
            pass
        except OSError:
            self.rest.clear()


@dataclass(eq=False, slots=True)
class RankProcess:
    """A worker seen from outside. Its main thread reads `tasks` when it has nothing to do, and its control thread
    `control` at any time: so a short cell wakes one of the two. In `report` it says how it has crashed.

    `asked` has the questions where it is, with the moment (monotonic seconds) until which it may answer. `where` is
    where the rank was at the last sample, and `sampled` says that this has been answered; `place` is where it was by
    its last answer. At `speak_at` it is asked to say that it has begun its cell, and at `doubt_at` its agent looks
    whether one that was told to leave its run can hear that at all. At `ask_at` one is asked for a word that has not
    formed the group of its `generation` yet.
    """

    rank: int
    channel: Channel
    control: Outbox
    tasks: Outbox
    lifeline: socket.socket
    pipes: tuple[OutputPipe, OutputPipe]
    report: int
    pid: int = 0
    launched: bool = False
    run: str = ""
    attempt: int = 1
    owes: bool = False
    speak_at: float | None = None
    kill_at: float | None = None
    doubt_at: float | None = None
    ask_at: float | None = None
    generation: int = 0
    ticks: int = -1
    verdict: str = ""
    forced: bool = False
    asked: dict[str, float] = field(default_factory=dict)
    unanswered: int = 0
    where: p.Whereabouts | None = None
    place: p.Whereabouts | None = None
    sampled: bool = True
    peek: select.poll = field(default_factory=select.poll)

    def __post_init__(self) -> None:
        for pipe in self.pipes:
            self.peek.register(pipe.descriptor, select.POLLIN)

    def begin(self, task: p.Execute, now: float) -> None:
        """Have a cell run. If it has not ended in a moment, the word that it has begun is asked for."""
        self.run, self.attempt, self.owes = task.run, task.attempt, True
        self.where = self.place = None
        self.speak_at = now + SPEAK_SECONDS
        self.tasks.give(task)

    def give(self, task: p.Task) -> None:
        """Have the control thread told; what the main thread is to do as well, goes to both."""
        self.control.give(task)
        if isinstance(task, p.Regroup | p.Exit):
            self.tasks.give(task)

    def sample(self, request: str) -> None:
        """Ask where the rank is, for the views; one that has not answered is not asked again."""
        if self.sampled:
            self.sampled = False
            self.give(p.TakeStack(request, 0))
        else:
            self.where = None

    def leave_by(self, moment: float, doubt_at: float) -> None:
        """The worker is killed if it still owes the end of its run at this moment (monotonic seconds).

        At `doubt_at` already, if it has not said a word until then and is stuck.
        """
        if self.kill_at is None:
            self.kill_at = moment
            self.say_a_word(doubt_at)

    def say_a_word(self, until: float) -> None:
        """Ask for a word, which comes at once whatever Python does. Without one it is looked whether it is stuck."""
        self.doubt_at, self.ticks = until, processor_ticks(self.pid)
        self.unanswered += 1
        self.give(p.TakeStack("", 0))

    def due(self) -> float:
        """When something is due of this rank that no message will announce (monotonic seconds)."""
        moments = [*self.asked.values(), *(pipe.flush_at for pipe in self.pipes)]
        moments += [self.kill_at, self.doubt_at, self.speak_at, self.ask_at]
        return min((moment for moment in moments if moment is not None), default=math.inf)

    def alive(self) -> p.Alive:
        """What a gateway must know that has lost sight of this rank."""
        return p.Alive(self.rank, self.pid, self.launched, self.run if self.owes else "")

    def output(self, now: float) -> list[p.Output]:
        """All that is in the pipes now."""
        # One question for both: most cells write nothing, and a read that finds nothing costs an exception.
        filled = {descriptor for descriptor, _ in self.peek.poll(0)}
        for pipe in self.pipes:
            if pipe.descriptor in filled:
                pipe.read_all()
        return [taken for pipe in self.pipes if pipe.texts and (taken := self.take(pipe, now)) is not None]

    def take(self, pipe: OutputPipe, now: float) -> p.Output | None:
        """What has been read of a pipe, as an event."""
        text = pipe.take(now)
        return p.Output(self.rank, self.run, pipe.stream, text) if text else None

    def close(self) -> None:
        """Close our ends of all lines."""
        for pipe in self.pipes:
            pipe.close()
        self.channel.close()
        self.tasks.socket.close()
        self.lifeline.close()
        os.close(self.report)


def open_lines(rank: int) -> tuple[RankProcess, list[int]]:
    """The lines to a worker that is to be forked: our ends, and the descriptors of its own, which the caller closes."""
    control, control_there = socket.socketpair()
    tasks, tasks_there = socket.socketpair()
    lifeline, lifeline_there = socket.socketpair()
    stdout, stdout_there = open_pipe("stdout")
    stderr, stderr_there = open_pipe("stderr")
    control.setblocking(False)
    tasks.setblocking(False)
    report = open_report()
    sockets = [control_there.detach(), tasks_there.detach(), lifeline_there.detach()]
    there = [*sockets, stdout_there, stderr_there, os.dup(report)]
    return RankProcess(
        rank, Channel(control), Outbox(control), Outbox(tasks), lifeline, (stdout, stderr), report
    ), there


def cause_of_death(status: int) -> str:
    """A wait status as a phrase: `was killed by SIGKILL`, `ended its process with exit code 3`."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended its process with exit code {code}"
    name = f"signal {-code}"
    with contextlib.suppress(ValueError):
        name = signal.Signals(-code).name
    if name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL"):
        return f"crashed with {name}"
    return f"was killed by {name}"
