"""One real session in a real kernel: faults come to it, and after each it must be as good as before."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import sys
import threading
import time
from dataclasses import dataclass, field

import psutil

from tests.chaos.faults import RANKS, SESSION, Fault
from tests.chaos.parts import NODES
from tests.chaos.witness import REGISTER, watching
from tests.support.notebook import Notebook, Shown
from tests.support.processes import gone

__all__ = ["Chaos", "Parts", "Wrong"]

SET_UP = """%%modal_distributed {options}
{register}
import ctypes, os, signal, subprocess, threading, time, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
torch.manual_seed(0)
ddp = DDP(torch.nn.Linear(4, 2))
token = {token!r}
"""
LATE_SECONDS = 0.8
"""So long before control must be back a rank that is not is late; one that was interrupted is about to be killed."""
DROPPED_SECONDS = 30.0
"""After so long a short cell that was interrupted at any moment has been dropped by the kernel."""
STUCK_SECONDS = 30.0
"""A cell that nothing befell is over long before that."""
CHECK = """%%modal_distributed
import torch, torch.distributed as dist
number = torch.tensor([float(10 ** rank)])
dist.all_reduce(number)
print(f'sum {int(number)} token {globals().get("token")}')
"""
TRAIN = """%%modal_distributed
left = much = None
ddp.zero_grad()
ddp(torch.full((2, 4), float(rank + 1))).sum().backward()
print('gradients', sorted(set(ddp.module.weight.grad.flatten().tolist())))
"""
REST = """%%modal_distributed --ranks {ranks}
print(f'token {{token}}')
"""
PIDS = f"print({SESSION}.connection.pid, *[_rank.pid for _rank in {SESSION}.status().ranks])"
READY = f"while {SESSION}.state != 'ready': __import__('time').sleep(0.01)"


class Wrong(AssertionError):
    """Something was not as it must be."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The processes of a session by what they are: `gateway`, `zygote`, `agent 0`, `rank 3`."""

    pids: dict[str, int]

    def processes(self, kind: str) -> list[int]:
        """Those of one kind."""
        return [pid for name, pid in self.pids.items() if name.startswith(kind)]


@dataclass
class Chaos:
    """The session, and how long each fault took to control. `agents` are its agents by their nodes, once known.

    In `folder` ranks say where they are when they are late.
    """

    book: Notebook
    folder: str
    token: str = ""
    seconds: list[tuple[float, str]] = field(default_factory=list)
    agents: list[int] = field(default_factory=list)

    def set_up(self) -> None:
        """Give every rank its variables."""
        self.token = os.urandom(4).hex()
        options = f"--replicas {NODES} --nproc-per-node {RANKS // NODES} --backend local"
        register = REGISTER.format(folder=self.folder)
        self.must_end_well(SET_UP.format(options=options, token=self.token, register=register))

    def parts(self) -> Parts:
        """Who is who at the moment."""
        gateway, *ranks = [int(word) for word in self.book.run(PIDS).stdout.split()]
        zygote = psutil.Process(gateway).parent()
        assert zygote is not None
        forked = [child.pid for child in zygote.children() if child.cmdline() == zygote.cmdline()]
        agents = sorted(set(forked) - {gateway, *ranks})
        if len(agents) != NODES:
            raise Wrong(f"a session of {NODES} nodes has the agents {agents}")
        # They come in the order of the nodes, and when one has died another has its place.
        new = [pid for pid in agents if pid not in self.agents]
        self.agents = [pid if pid in agents else new.pop(0) for pid in self.agents or new]
        named = {f"rank {number}": pid for number, pid in enumerate(ranks)}
        named |= {f"agent {number}": pid for number, pid in enumerate(self.agents)}
        return Parts(named | {"gateway": gateway, "zygote": zygote.pid})

    def suffer(self, fault: Fault) -> None:
        """Have a fault come, and hold the session to what must be true."""
        parts = self.parts() if fault.hits else Parts({})
        shown, seconds = self.befall(fault, parts)
        self.seconds.append((seconds, fault.name))
        if shown.error_name not in fault.outcomes:
            raise Wrong(f"ended with {shown.error_name or 'no error'}: {shown.error}\n{shown.stdout}{shown.stderr}")
        missing = [words for words in fault.told if words.lower() not in shown.error.lower()]
        if missing:
            raise Wrong(f"{missing} is not said: {shown.error}\n{shown.traceback}")
        if seconds > fault.control:
            raise Wrong(f"control came back after {seconds:.2f} s: {shown.error}")
        if fault.ends:
            self.begin_anew(fault, parts)
            return
        stopped = [hit.part for hit in fault.hits if hit.signal == signal.SIGSTOP]
        for part in stopped:
            os.kill(parts.pids[part], signal.SIGCONT)
        if stopped:
            self.must_end_well(READY)
        try:
            self.check(fault)
        except Wrong as wrong:
            raise Wrong(f"{wrong}\nafter {seconds:.2f} s of: {shown.error}\n{shown.stderr}") from None

    def befall(self, fault: Fault, parts: Parts) -> tuple[Shown, float]:
        """Run the cell of a fault and do to it what is to be done. Returns the seconds from the fault to control."""
        began = time.monotonic()
        at = began
        sent = self.book.send(fault.cell)
        if fault.waits_for_begin and (fault.hits or fault.interrupt is not None):
            told = ""
            while told.count("begun") < RANKS:
                told += self.book.wait_for(sent, "begun", began).stdout
            at = time.monotonic()
        if fault.interrupt is not None:
            time.sleep(fault.interrupt)
            at = time.monotonic()
            self.book.manager.interrupt_kernel()
        timers = [threading.Timer(hit.seconds, send, [parts.pids[hit.part], hit.signal]) for hit in fault.hits]
        after = max((hit.seconds for hit in fault.hits), default=0.0)
        at += after
        for timer in timers:
            timer.start()
        try:
            with watching(self.folder, after + fault.control - LATE_SECONDS, report):
                shown = self.book.collect(sent, began, 90 if fault.waits_for_begin else DROPPED_SECONDS)
        except queue.Empty:
            if fault.waits_for_begin or fault.interrupt is None:
                raise
            # An interrupt that comes between two lines of ipykernel's own has it drop the request without a word.
            return Shown(error_name=fault.outcomes[0]), 0.0
        for timer in timers:
            timer.join()
        return shown, began + shown.seconds - at

    def check(self, fault: Fault) -> None:
        """The next cell works, on all ranks; who has not been lost has kept what it had; a model trains on."""
        shown = self.must_end_well(CHECK)
        wanted = sorted(
            f"[rank {rank}] sum {1111} token {None if rank in fault.lost else self.token}" for rank in range(RANKS)
        )
        said = [line for line in shown.lines if line.startswith("[rank")]
        if said != wanted:
            raise Wrong(f"the next cell says {said}, and not {wanted}")
        if fault.lost:
            self.set_up()
        shown = self.must_end_well(TRAIN)
        if len(re.findall(r"gradients \[5\.0\]", shown.stdout)) != RANKS:
            raise Wrong(f"a model trains wrongly: {shown.stdout}")

    def begin_anew(self, fault: Fault, parts: Parts) -> None:
        """Ranks that are left have kept what they had; with the session all its processes end; another one works."""
        if fault.left:
            shown = self.must_end_well(REST.format(ranks=",".join(map(str, fault.left))))
            wanted = [f"[rank {rank}] token {self.token}" for rank in fault.left]
            if [line for line in shown.lines if line.startswith("[rank")] != wanted:
                raise Wrong(f"those that are left say {shown.lines}, and not {wanted}")
            self.must_end_well("%modal_stop")
        if not gone(list(parts.pids.values())):
            raise Wrong(f"of the processes {parts.pids} some are still there")
        self.agents = []
        self.set_up()
        self.check(Fault("none", "", ()))

    def must_end_well(self, source: str) -> Shown:
        """What a cell shows that nothing befalls. Where it takes long, all ranks say where they are."""
        try:
            with watching(self.folder, STUCK_SECONDS, report):
                shown = self.book.run(source)
        except queue.Empty:
            raise Wrong(f"a cell that nothing befell did not end: {source}") from None
        if shown.error:
            raise Wrong(f"a cell that nothing befell ended with {shown.error_name}: {shown.error}\n{shown.stderr}")
        return shown


def report(text: str) -> None:
    """Tell what a test that fails must have told."""
    print(text, file=sys.stderr, flush=True)


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process, as the system would."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
