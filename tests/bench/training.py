"""Steps per second of a small DDP training: the same script as a cell and under torchrun."""

from __future__ import annotations

import re

from tests.bench.figures import Bench, Row, median
from tests.bench.kernel import Reply, start_kernel, wait_until_warm
from tests.bench.torchrun import torchrun

__all__ = ["TRAINING"]

STEPS, WARM_UP, PAIRS = 300, 50, 4
SCRIPT = f"""\
import time

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel as DDP

dist.init_process_group("gloo")
torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
mine = torch.arange(dist.get_rank(), len(labels), dist.get_world_size())
model = DDP(torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range({WARM_UP + STEPS}):
    if step == {WARM_UP}:
        dist.barrier()
        began = time.perf_counter()
    batch = mine[torch.randint(len(mine), (32,))]
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
    optimizer.step()
dist.barrier()
if dist.get_rank() == 0:
    print("steps/s", {STEPS} / (time.perf_counter() - began), "threads", torch.get_num_threads(), flush=True)
dist.destroy_process_group()
"""
SAID = re.compile(r"steps/s ([\d.]+) threads (\d+)")


def rate(reply: Reply) -> float:
    """What rank 0 said; each rank must have had one thread, or the two are not the same thing."""
    found = SAID.search(reply.text)
    assert found and found[2] == "1", reply.text[-500:]
    return float(found[1])


def run() -> list[Row]:
    """By turns, so that both meet the same weather; who goes first changes too."""
    ours: list[float] = []
    theirs: list[float] = []
    with start_kernel("%load_ext modal_magic") as kernel:
        kernel.execute("%%modal_distributed --replicas 4 --backend local\nimport sklearn.datasets")
        wait_until_warm(kernel)

        def one_of_ours() -> None:
            ours.append(rate(kernel.execute(f"%%modal_distributed\n{SCRIPT}")))

        def one_of_theirs() -> None:
            theirs.append(rate(torchrun(SCRIPT)))

        for pair in range(PAIRS):
            for turn in (one_of_ours, one_of_theirs)[:: 1 if pair % 2 else -1]:
                turn()
    ratio = median(ours) / median(theirs)
    pairs = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    beside = f"{median(ours):.0f} beside {median(theirs):.0f} steps/s; pairs {pairs[0]:.2f} to {pairs[-1]:.2f}"
    return [
        Row(
            "digits MLP, DDP on 4 ranks, as a share of torchrun's rate", f"{ratio:.2f}", beside, "≥ 0.95", ratio >= 0.95
        )
    ]


TRAINING = Bench(
    name="training",
    limit=180,
    how=(
        f"sklearn's digits, an MLP 64-128-10, batch 32 per rank, SGD, gloo, one thread per rank: {STEPS} steps after "
        f"{WARM_UP}, timed by rank 0. One script, with its own init_process_group, as a cell and under torchrun, by "
        f"turns, {PAIRS} of each; the ratio is that of the medians. Baseline: what rank 0 printed counts also where "
        "torch then aborts in destroy_process_group, as torch 2.13 under torchrun does now and then."
    ),
    run=run,
)
