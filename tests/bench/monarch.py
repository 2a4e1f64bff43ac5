"""Monarch (torchmonarch), as far as it has cells: actors that run their text, started and called from a notebook."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
from collections.abc import Iterator

from tests.bench.kernel import Kernel, start_kernel

__all__ = ["MISSING", "call", "first_sum", "start_monarch"]

MISSING = "torchmonarch is not installed here"

START = """\
import logging
import warnings

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
from monarch.actor import this_host
from tests.bench.monarch_rank import Rank

ranks = this_host().spawn_procs(per_host={{"gpus": {ranks}}}).spawn("ranks", Rank)
ranks.run.call("pass").get()
None
"""
GROUP = """\
import os

os.environ["OMP_NUM_THREADS"] = "1"
import torch
import torch.distributed as dist
from monarch.actor import current_rank

dist.init_process_group("gloo", "tcp://127.0.0.1:{port}", rank=current_rank().rank, world_size=4)
total = torch.ones(1)
dist.all_reduce(total)
assert total.item() == 4
"""


def is_here() -> bool:
    """Whether Monarch is installed."""
    return importlib.util.find_spec("monarch") is not None


def call(source: str) -> str:
    """A cell that has all actors run this text."""
    return f"ranks.run.call({source!r}).get(); None"


@contextlib.contextmanager
def start_monarch(ranks: int) -> Iterator[Kernel | None]:
    """A kernel with so many actors, whose cells `call` makes; None where Monarch is not installed."""
    if not is_here():
        yield None
        return
    with start_kernel(START.format(ranks=ranks)) as kernel:
        yield kernel


def first_sum() -> float | None:
    """The seconds of a cell in a new kernel that starts four actors, until each has done its first all_reduce.

    None where Monarch is not installed, or cannot be used.
    """
    if not is_here():
        return None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with contextlib.suppress(AssertionError, TimeoutError), start_kernel() as kernel:
        return kernel.execute(START.format(ranks=4) + call(GROUP.format(port=port))).seconds
    return None
