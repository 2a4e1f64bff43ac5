"""The worker: the process that is a rank. The main thread runs cells; the control thread can always be spoken to."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import faulthandler
import math
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import msgspec

from modal_magic import protocol as p
from modal_magic.frameworks.base import Framework, Superseded, prepare
from modal_magic.node import bars, crashes, progress, spawning, stdio
from modal_magic.node.channel import Channel
from modal_magic.node.failure import collective_in, describe, describe_exit, in_cell, where_interrupted
from modal_magic.node.orphans import die_with
from modal_magic.node.shell import RankShell, make_shell
from modal_magic.node.stacks import Sampler
from modal_magic.signals import set_handler
from modal_magic.specs import WorkerSpec

__all__ = ["run_worker"]

POLITE_SECONDS = 0.1
"""How long a signal alone is tried on a rank before the connections of its process groups are cut."""
TAKEN_SECONDS = 1.0
"""How long a cell waits at most until what it displays has its place among what it writes."""
AGAIN_SECONDS = 1.0
"""A rank that has heard the signal and is still in the run then, hears it once more before its agent kills it."""


Attempt = tuple[str, int]
"""A run, and which attempt of it."""
NOTHING: Attempt = "", 0


@dataclass(slots=True, repr=False)  # who asks for the handler of a signal has that of its object made too
class Worker:
    """A rank. The main thread takes one task after the other; the control thread hears of what cannot wait for that,
    and interrupts.

    Each has a line of its own to the agent, so that a short cell wakes one thread. Which of the two hears first of what
    concerns both does not matter: an interrupt names the attempt of the run that it is meant for.
    """

    rank: int
    tasks: Channel
    channel: Channel
    shell: RankShell
    framework: Framework
    anew: bool
    sampler: Sampler
    taken: queue.SimpleQueue[p.Taken] = field(default_factory=queue.SimpleQueue)
    doing: Attempt = NOTHING
    signal_due: bool = False
    heard: int = 0
    saying: bool = False
    interrupted_while_saying: bool = False
    unwanted: set[Attempt] = field(default_factory=set)

    @property
    def running(self) -> str:
        """The run whose cell is being run; empty where there is none."""
        return self.doing[0]

    @property
    def unwelcome(self) -> bool:
        """Whether what is being run is to be left."""
        return self.doing in self.unwanted

    # -- the main thread

    def serve(self) -> None:
        """Do one task after the other until told to end."""
        while (messages := self.tasks.receive()) is not None:
            for data in messages:
                match p.decode_task(data):
                    case p.Execute() as task:
                        self.execute(task)
                    case p.Regroup(generation=generation, together=together):
                        self.join(generation, together)
                    case p.Exit(preempted=preempted):
                        if preempted:
                            self.save()
                        return
        os._exit(0)  # no agent, no rank; nor is one what a rank has forked and let run out of its cell

    def join(self, generation: int, together: bool = True) -> None:
        """Join the process group of a generation, or be without one, and say how that went."""
        began = time.monotonic()
        try:
            self.framework.join(generation, together)
        except Superseded:
            return
        except Exception as error:
            described = describe(error, [], self.framework.kind_of(error))
            self.channel.send(p.GroupFailed(self.rank, generation, described))
            return
        seconds, health = time.monotonic() - began, self.framework.health()
        self.channel.send(p.Grouped(self.rank, generation, self.framework.device, seconds, health))

    def execute(self, task: p.Execute) -> None:
        """Run a cell. Whatever it does, exactly one end is reported."""
        began = time.monotonic()
        end: tuple[Any, ...] = ("interrupted", "before it began")
        attempt = task.run, task.attempt
        if attempt not in self.unwanted:
            # Most cells of a notebook end at once: then nobody needs to hear that they have begun.
            self.channel.post(p.Started(self.rank, task.run))
            if os.environ.get("TORCHELASTIC_RESTART_COUNT") != (restarts := str(task.attempt - 1)):
                os.environ["TORCHELASTIC_RESTART_COUNT"] = restarts  # where scripts for torchrun look
            self.framework.begin(task.run)
            self.shell.reporter.begin()
            set_handler(signal.SIGINT, self.on_signal)  # a cell before may have left another: pdb's `continue` does
            self.doing, self.heard = attempt, 0
            try:
                if attempt not in self.unwanted:  # an interrupt may have come while we made ready
                    end = self.run_cell(task)
                    self.shell.reporter.finish()
            except KeyboardInterrupt as error:  # the signal came between the cell and our own frames
                self.doing = NOTHING  # another one has nothing more to end
                end = ("interrupted", where_interrupted(error, self.framework.collective))
            finally:
                self.doing = NOTHING
        self.unwanted.discard(attempt)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        seconds, health = time.monotonic() - began, self.framework.health()
        match end:
            case ("finished", code):
                self.channel.send(p.Finished(self.rank, task.run, seconds, health, code), instead=True)
            case ("interrupted", where):
                self.channel.send(p.Interrupted(self.rank, task.run, seconds, health, where), instead=True)
            case ("failed", error, code):
                self.channel.send(p.Failed(self.rank, task.run, seconds, health, error, code), instead=True)

    def save(self) -> None:
        """Call what cells have registered for the end of this node; one that fails does not keep the others from it."""
        for hook in self.shell.before_preemption.values():
            try:
                hook()
            except Exception:
                traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()

    def run_cell(self, task: p.Execute) -> tuple[Any, ...]:
        """Run a cell in the shell and say which end it came to."""
        result = self.shell.run(task.source, task.cell, task.first_line)
        error = result.error_before_exec or result.error_in_exec
        if error is None:
            return "finished", None
        if isinstance(error, SystemExit):
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
            # What the system would make of it: eight bits.
            code = error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)
            return ("failed", describe_exit(error), code) if code else ("finished", code)
        if self.was_freed(error):
            # What it did at the first, as to save what it has, did not come to its end.
            busy = ", still busy with a first interrupt" if self.heard > 1 else ""
            return "interrupted", where_interrupted(error, self.framework.collective) + busy
        reminder = self.framework.advice(error)
        if self.anew and type(error) is NameError:
            reminder = "the rank was started anew, and lost what it had before: if that was among it, make it again"
        kind = self.framework.kind_of(error)
        call = collective_in(error, self.framework.collective) if kind == "communication" else ""
        return "failed", describe(error, self.shell.shown, kind, reminder, call), None

    def was_freed(self, error: BaseException) -> bool:
        """Whether an error of the cell is only what our own interrupt made of it. What it awaits is cancelled."""
        freed = isinstance(error, KeyboardInterrupt | asyncio.CancelledError)
        ours = freed or self.framework.kind_of(error) == "communication"
        return ours and self.unwelcome

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """SIGINT means something only to the run that is to be left, and not to one that has failed already.

        One that has shown a traceback and is in the cell again, as after a `__repr__` that raised, has not failed.
        """
        if not self.signal_due:  # the group's signal and our own are one interrupt
            return
        self.signal_due = False
        if self.running and self.unwelcome and not (self.shell.has_raised and not in_cell(frame)):
            if not self.saying:
                self.heard += 1
                raise KeyboardInterrupt
            self.interrupted_while_saying = True

    def on_unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        """What code raised that nobody can catch, as a finalizer. An interrupt lost there is yet to be heard.

        Most are lost as a process is forked, by a DataLoader for one: then the signal comes in a hook of the fork.
        """
        if self.unwelcome and isinstance(lost.exc_value, KeyboardInterrupt):
            self.signal_due = True  # `insist` sends it again
            self.heard = 0
        else:
            sys.__unraisablehook__(lost)

    def disown(self) -> None:
        """In a child that the rank has forked, as the workers of a DataLoader: be any process of Python.

        It says nothing more of the rank, and an interrupt ends it. One that lived on would be waited for for seconds
        when what started it is collected as garbage: in a later cell, and just when that is to be left.
        """
        self.channel.disown()
        self.tasks.disown()
        faulthandler.disable()
        if signal.getsignal(signal.SIGINT) == self.on_signal:  # else a cell has wanted another
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def say(self, message: p.Message) -> None:
        """Send what the code of a cell gave rise to. An interrupt in the middle of a message comes after it."""
        if threading.current_thread() is not threading.main_thread():
            self.channel.send(message)
            return
        self.saying = True
        try:
            self.channel.send(message)
        finally:
            self.saying = False
        if self.interrupted_while_saying:
            self.interrupted_while_saying = False
            raise KeyboardInterrupt

    def display(self, shown: p.Display) -> None:
        """Send what a cell displays, and wait until it has its place: what is written next goes another way.

        An agent that is too busy to answer costs the order, not the cell.
        """
        with contextlib.suppress(queue.Empty):
            while True:  # those that came too late
                self.taken.get_nowait()
        self.say(msgspec.structs.replace(shown, rank=self.rank, run=self.running))
        if not self.channel.disowned:
            with contextlib.suppress(queue.Empty):
                self.taken.get(timeout=TAKEN_SECONDS)

    # -- the control thread

    def listen(self) -> None:
        """Take what the agent says, for the life of the process; a rank that nobody can speak to ends."""
        try:
            self.obey()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(70)

    def obey(self) -> None:
        """Do what the agent says, one thing after the other; without an agent there is no rank."""
        while (messages := self.channel.receive()) is not None:
            for data in messages:
                match task := p.decode_task(data):
                    case p.Interrupt(run=run, attempt=attempt):
                        self.interrupt((run, attempt))
                    case p.TakeStack(request=request, depth=depth):
                        self.channel.send(self.stack_taken(request, depth))
                    case p.Taken():
                        self.taken.put(task)
                    case p.Speak():
                        self.channel.flush()
                    case p.Exit(preempted=preempted):
                        self.unwanted.add(doing := self.doing)
                        self.framework.supersede(sys.maxsize)  # it may wait for a group that nobody needs any more
                        self.send_sigint(children=True)
                        if preempted and doing != NOTHING:  # it may wait in C++ for a rank that goes on
                            self.look_again(doing, time.monotonic() + AGAIN_SECONDS)
                    case p.Regroup(generation=generation):
                        self.framework.supersede(generation)
        os._exit(0)

    def stack_taken(self, request: str, depth: int) -> p.StackTaken:
        """Where the main thread is. It goes on meanwhile, so looking at it may fail."""
        try:
            return p.StackTaken(self.rank, request, *self.sampler.take(self.running, depth))
        except Exception as error:
            return p.StackTaken(self.rank, request, None, [], f"cannot be looked at: {type(error).__name__}: {error}")

    def interrupt(self, attempt: Attempt) -> None:
        """Have the main thread leave a run, begun or not: by a signal, then by cutting what it waits for."""
        self.unwanted.add(attempt)
        if self.doing == attempt:
            self.send_sigint(children=True)
            self.look_again(attempt, time.monotonic() + AGAIN_SECONDS)

    def look_again(self, attempt: Attempt, again_at: float) -> None:
        """Have `insist` look in a moment whether the main thread has left the run."""
        threading.Timer(POLITE_SECONDS, self.insist, [attempt, again_at]).start()

    def insist(self, attempt: Attempt, again_at: float) -> None:
        """Cut what the main thread waits for in C++, until it has left the run; a second signal comes at `again_at`.

        One that has heard the signal may be saving what it has, as scripts do on KeyboardInterrupt, so it is let be.
        """
        if self.doing != attempt or not self.unwelcome:
            return
        heard = not self.signal_due
        if not heard or self.waits():
            self.framework.sever()
        if not heard or time.monotonic() >= again_at:
            self.send_sigint(children=False)
            again_at = math.inf if heard else again_at
        self.look_again(attempt, again_at)

    def waits(self) -> bool:
        """Whether the main thread is in a collective. It goes on meanwhile, so looking at it may fail."""
        with contextlib.suppress(Exception):
            return bool(self.sampler.take(self.running, 0)[0].collective)
        return False

    def send_sigint(self, children: bool) -> None:
        """Send SIGINT to the main thread, and to the children in our process group.

        Of a signal to the whole process another thread may be told, and then the main thread sleeps on.
        """
        self.signal_due = True
        if children:
            os.killpg(0, signal.SIGINT)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def run_worker(
    spec: WorkerSpec,
    control: socket.socket,
    tasks: socket.socket,
    lifeline: socket.socket,
    stdout: int,
    stderr: int,
    report: int,
) -> None:
    """Be a rank until told to end, or until the agent is gone."""
    die_with(lifeline)
    rank = spec.place.rank
    stdio.redirect(stdout, stderr)
    crashes.report_to(report)
    os.environ.update(spec.place.environment)
    channel, inbox = Channel(control), Channel(tasks)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    framework = prepare(spec)
    framework.reseed()
    namespace = {
        "rank": rank,
        "local_rank": int(spec.place.environment["LOCAL_RANK"]),
        "world_size": int(spec.place.environment["WORLD_SIZE"]),
        **framework.namespace(),
    }
    outlet: list[Worker] = []
    shell = make_shell(lambda shown: outlet[0].display(shown), namespace)
    sampler = Sampler(framework, threading.get_ident())
    worker = Worker(rank, inbox, channel, shell, framework, spec.place.anew, sampler)
    outlet.append(worker)
    os.register_at_fork(after_in_child=worker.disown)
    shell.hush = worker.was_freed
    shell.plain = lambda error: framework.kind_of(error) == "communication"
    interval = max(progress.INTERVAL_SECONDS, namespace["world_size"] / progress.EVENTS_PER_SECOND)
    shell.reporter = progress.Reporter(rank, worker.say, lambda: worker.running, interval)
    bars.install(shell.reporter)
    spawning.explain()
    signal.signal(signal.SIGINT, worker.on_signal)
    sys.unraisablehook = worker.on_unraisable
    threading.Thread(target=worker.listen, name="modal_magic control", daemon=True).start()
    channel.send(p.Launched(rank, os.getpid()))
    worker.join(spec.generation)
    worker.serve()
    atexit._run_exitfuncs()
