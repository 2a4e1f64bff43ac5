"""What the ranks of a node use, and at which line of the cell they are: sampled by their agent while a cell runs."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import psutil

from modal_magic import protocol as p
from modal_magic.node.gpu import Gpu, find_gpu
from modal_magic.node.rank_process import RankProcess

__all__ = ["SAMPLE", "UsageWatch"]

SAMPLE = "sample"
"""The name of our own question where a rank is; its answer stays in the agent."""
SAMPLE_SECONDS = 0.5
"""How often a rank is looked at. A sample costs it some 30 µs, and its agent some 60 µs."""
RANKS_PER_SECOND = 1024
"""All ranks together are told of so often at most."""
ANSWER_SECONDS = 0.05
"""So long after the question its answers are told; one that is late is told the next time."""


@dataclass(slots=True)
class Meter:
    """How one rank is measured. A rank that was started anew has another process, and so another meter."""

    process: psutil.Process
    gpu: Gpu | None


@dataclass(slots=True)
class UsageWatch:
    """Looks at the ranks of a node that run a cell: asks them where they are, and soon after tells what they use.

    `environments` has that of each rank, by which its GPU is found. Times are monotonic seconds.
    """

    ask_at: float = math.inf
    tell_at: float = math.inf
    interval: float = SAMPLE_SECONDS
    environments: dict[int, Mapping[str, str]] = field(default_factory=dict)
    meters: dict[int, Meter] = field(default_factory=dict)

    def add(self, rank: int, environment: Mapping[str, str]) -> None:
        """A rank is started here."""
        self.environments[rank] = environment
        self.interval = max(SAMPLE_SECONDS, int(environment["WORLD_SIZE"]) / RANKS_PER_SECOND)

    def begin(self, now: float) -> None:
        """A cell begins; one that ends before the first look costs nothing."""
        if self.ask_at == self.tell_at == math.inf:
            self.ask_at = now + self.interval

    def due(self) -> float:
        """When `turn` has something to do."""
        return min(self.ask_at, self.tell_at)

    def turn(self, workers: Iterable[RankProcess], now: float) -> list[p.Usage]:
        """Ask or tell what is due. Ends by itself when no rank runs a cell."""
        busy = [worker for worker in workers if worker.owes and worker.pid]
        told: list[p.Usage] = []
        if now >= self.tell_at:
            self.tell_at = math.inf
            told = [self._measured(worker) for worker in busy]
            self.ask_at = now + self.interval - ANSWER_SECONDS if busy else math.inf
        if now >= self.ask_at:
            self.ask_at, self.tell_at = math.inf, now + ANSWER_SECONDS
            for worker in busy:
                worker.sample(SAMPLE)
        return told

    def _measured(self, worker: RankProcess) -> p.Usage:
        usage = p.Usage(worker.rank, worker.run, worker.where)
        with contextlib.suppress(psutil.Error):
            meter = self.meters.get(worker.rank)
            if meter is None or meter.process.pid != worker.pid:
                gpu = find_gpu(self.environments.get(worker.rank, {}))
                meter = self.meters[worker.rank] = Meter(psutil.Process(worker.pid), gpu)
                meter.process.cpu_percent()  # measures from here on
                cpu = None
            else:
                cpu = round(meter.process.cpu_percent())
            used = meter.gpu.read() if meter.gpu is not None else (None, None, None)
            usage = p.Usage(worker.rank, worker.run, worker.where, cpu, meter.process.memory_info().rss, *used)
        return usage
