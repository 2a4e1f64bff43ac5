"""What ranks and all that keeps them up hold in memory after a DDP step."""

from __future__ import annotations

from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]

from modal_magic.sessions.session import Session
from tests.bench.figures import Bench, Row, at_most
from tests.bench.kernel import start_kernel, wait_until_warm

__all__ = ["MEMORY"]

STEP = """\
%%modal_distributed --replicas 4 --backend local --session measured
import torch
from torch.nn.parallel import DistributedDataParallel as DDP

model = DDP(torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.nn.functional.cross_entropy(model(torch.randn(32, 64)), torch.randint(10, (32,))).backward()
optimizer.step()
"""
LET_GO = 'get_ipython().magics_manager.registry["ModalMagics"].resources.backend("local").close()'


def pss(processes: Iterable[psutil.Process]) -> float:
    """The proportional set size of processes, in MB: a page that n processes share counts 1/n for each."""
    return float(sum(process.memory_full_info().pss for process in processes)) / 1e6


def megabytes(value: float) -> str:
    """`312 MB`."""
    return f"{value:.0f} MB"


def find(session: str) -> tuple[list[psutil.Process], psutil.Process]:
    """The processes of the ranks of a session, and their zygote."""
    attached = Session.attach(session)
    try:
        ranks = [psutil.Process(rank.pid) for rank in attached.status().ranks]
    finally:
        attached.detach()
    zygote = ranks[0].parent()
    assert zygote is not None and all(rank.parent() == zygote for rank in ranks)
    return ranks, zygote


def run() -> list[Row]:
    """With the next session's zygote beside it, as it is in use, and without."""
    with start_kernel("%load_ext modal_magic") as kernel:
        kernel.execute(STEP)
        wait_until_warm(kernel)
        ranks, zygote = find("measured")
        everything = [zygote, *zygote.children(recursive=True)]
        following = [child for child in psutil.Process(kernel.pid).children() if child != zygote]
        in_use, in_all, next_one = pss(ranks), pss(everything), pss(following)
        private = float(sum(rank.memory_full_info().uss for rank in ranks)) / 1e6
        kernel.execute(LET_GO)
        strict, strict_all = pss(ranks), pss(everything)
    warm = f"the next session's zygote, not counted: {megabytes(next_one)}"
    return [
        at_most("PSS of 4 ranks after a DDP step", in_use, 350, megabytes, f"theirs alone (USS): {megabytes(private)}"),
        at_most("PSS of 4 ranks with zygote, 4 agents and gateway", in_all, 500, megabytes, warm),
        at_most("PSS of 4 ranks, no next zygote to share with", strict, 350, megabytes),
        at_most("PSS of all, no next zygote to share with", strict_all, 500, megabytes),
    ]


MEMORY = Bench(
    name="memory",
    limit=60,
    how=(
        "PSS (shared pages divided among those that share them) of the ranks' processes, then of the whole tree below "
        "their zygote and the zygote itself, after one DDP step of a small MLP in a cell. Pages of torch's libraries "
        "are shared with the next session's warm zygote too, so all is measured again once that is gone."
    ),
    run=run,
)
