"""One real session in a real kernel: faults come to it, and after each it must be as good as before."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from dataclasses import dataclass, field

from tests.chaos.faults import RANKS, SESSION, Fault
from tests.support.notebook import Notebook, Shown

__all__ = ["CONTROL_SECONDS", "Chaos", "Wrong"]

CONTROL_SECONDS = 2.0
"""From the fault to control."""
SET_UP = """%%modal_distributed {options}
import ctypes, os, signal, subprocess, time, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
torch.manual_seed(0)
ddp = DDP(torch.nn.Linear(4, 2))
token = {token!r}
"""
CHECK = """%%modal_distributed
import torch, torch.distributed as dist
number = torch.tensor([float(10 ** rank)])
dist.all_reduce(number)
print(f'sum {int(number)} token {globals().get("token")}')
"""
TRAIN = """%%modal_distributed
left = None
ddp.zero_grad()
ddp(torch.full((2, 4), float(rank + 1))).sum().backward()
print('gradients', sorted(set(ddp.module.weight.grad.flatten().tolist())))
"""
PIDS = f"print(*[_rank.pid for _rank in {SESSION}.status().ranks])"


class Wrong(AssertionError):
    """Something was not as it must be."""


@dataclass
class Chaos:
    """The session, and how long each fault took to control."""

    book: Notebook
    token: str = ""
    seconds: list[tuple[float, str]] = field(default_factory=list)

    def set_up(self) -> None:
        """Give every rank its variables."""
        self.token = os.urandom(4).hex()
        options = "--replicas 2 --nproc-per-node 2 --backend local"
        self.must_end_well(self.book.run(SET_UP.format(options=options, token=self.token)))

    def pids(self) -> list[int]:
        """The process of each rank."""
        return [int(word) for word in self.book.run(PIDS).stdout.split()]

    def suffer(self, fault: Fault) -> None:
        """Have a fault come, and hold the session to what must be true."""
        pids = self.pids() if fault.kills else []
        shown, seconds = self.befall(fault, pids)
        self.seconds.append((seconds, fault.name))
        if shown.error_name not in fault.outcomes:
            raise Wrong(f"ended with {shown.error_name or 'no error'}: {shown.error}\n{shown.stdout}{shown.stderr}")
        missing = [words for words in fault.told if words.lower() not in shown.error.lower()]
        if missing:
            raise Wrong(f"{missing} is not said: {shown.error}")
        self.check(fault)

    def befall(self, fault: Fault, pids: list[int]) -> tuple[Shown, float]:
        """Run the cell of a fault and do to it what is to be done. Returns the seconds from the fault to control."""
        began = time.monotonic()
        at = began
        sent = self.book.send(fault.cell)
        if fault.interrupt is not None:
            if fault.waits_for_begin:
                self.book.wait_for(sent, "begun", began)
            time.sleep(fault.interrupt)
            at = time.monotonic()
            self.book.manager.interrupt_kernel()
        timers = [threading.Timer(seconds, kill, [pids[rank]]) for seconds, rank in fault.kills]
        for timer in timers:
            timer.start()
        shown = self.book.collect(sent, began, 90)
        for timer in timers:
            timer.join()
        return shown, began + shown.seconds - at

    def check(self, fault: Fault) -> None:
        """The next cell works, on all ranks; who has not been lost has kept what it had; a model trains on."""
        shown = self.must_end_well(self.book.run(CHECK))
        wanted = sorted(
            f"[rank {rank}] sum {1111} token {None if rank in fault.lost else self.token}" for rank in range(RANKS)
        )
        said = [line for line in shown.lines if line.startswith("[rank")]
        if said != wanted:
            raise Wrong(f"the next cell says {said}, and not {wanted}")
        if fault.lost:
            self.set_up()
        shown = self.must_end_well(self.book.run(TRAIN))
        if len(re.findall(r"gradients \[5\.0\]", shown.stdout)) != RANKS:
            raise Wrong(f"a model trains wrongly: {shown.stdout}")

    def must_end_well(self, shown: Shown) -> Shown:
        """What a cell showed that nothing befell."""
        if shown.error:
            raise Wrong(f"a cell that nothing befell ended with {shown.error_name}: {shown.error}\n{shown.stderr}")
        return shown


def kill(pid: int) -> None:
    """Kill a process, as the system would."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
