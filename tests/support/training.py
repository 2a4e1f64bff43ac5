"""A run that goes on until it is cut short, and whose ranks meet again and again."""

from __future__ import annotations

from modal_magic import Session
from modal_magic.sessions.run import Run

__all__ = ["begun", "train"]

TRAINING = """
import torch, torch.distributed as dist, time
kept = rank
print("begun", flush=True)
while True:
    dist.all_reduce(torch.ones(1000))
    time.sleep(0.01)
"""


def train(session: Session) -> Run:
    """Such a run, once all ranks are in it. What each keeps is its number, as `kept`."""
    return begun(session.run(TRAINING))


def begun(run: Run) -> Run:
    """A run once each rank of its session has written that it has begun."""
    while sum("begun" in view.output for view in list(run.ranks.values())) < run.session.world_size:
        assert not run.done, run.output
        run.events(1.0)
    return run
