"""Nodes that Modal cannot restore with their GPU's memory (`--snapshot gpu`): noticed, and called anew without that.

Such a container dies before any code of ours runs in it, and Modal starts another, again and again. What can be seen is
that containers come and go and no node arrives.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace

import modal

from modal_magic.backends.base import Plan
from modal_magic.backends.modal_app import deployed, node_class
from modal_magic.backends.modal_inventory import containers_of_app
from modal_magic.backends.modal_meeting import Calls, Meeting
from modal_magic.backends.modal_trouble import TROUBLE
from modal_magic.errors import ModalMagicError

__all__ = ["watch_restores"]

LOOK_SECONDS = 3.0
"""How often Modal's list of containers is looked at while a node is missing. Its command line takes a second."""
AWAY_SECONDS = 10.0
"""How often it is asked whether a node has been taken away, and is to be restored again."""
MOST_LOST = 2
"""So many containers lost for each node that has not come are no accident any more."""
INSTEAD = (
    "containers ended while Modal restored the memory of their GPUs: nodes start from a snapshot of the CPU's memory "
    "instead (--snapshot cpu does so at once)"
)


def watch_restores(plan: Plan, app: str, key: str, calls: list[str], done: threading.Event) -> None:
    """Look on until the session is over, or `done` is set. `calls` are those of the session, and are kept right."""
    meeting = Meeting(key)
    anew: set[int] = set()
    before: set[str] | None = None  # these are other sessions', or wait for one
    seen: set[str] = set()
    pause = 0.0
    while not done.wait(pause):
        pause = LOOK_SECONDS
        with contextlib.suppress(*TROUBLE, ModalMagicError, OSError, ValueError):  # it cannot be asked just now
            if meeting.over() or len(anew) == plan.nodes:
                return
            missing = [node_rank for node_rank in meeting.missing(plan.nodes) if node_rank not in anew]
            if not missing:
                before, seen, pause = None, set(), AWAY_SECONDS
                continue
            now = containers_of_app(app)
            before = now - meeting.containers() if before is None else before
            seen |= now - before
            # Of other sessions on this app containers come and go too, but most of them have arrived before they go.
            if len(seen - now - meeting.everyones_containers()) >= MOST_LOST * len(missing):
                for node_rank in _call_anew(plan, meeting, missing, calls, done):
                    anew.add(node_rank)


def _call_anew(
    plan: Plan, meeting: Meeting, missing: list[int], calls: list[str], done: threading.Event
) -> Iterator[int]:
    """Have nodes of the app for `--snapshot cpu` in place of those that are missing, while somebody wants them.

    Gives each one's number once it is called.
    """
    containers = replace(plan.containers, snapshot="cpu", min_containers=None)
    node_of = modal.Cls.from_name(deployed(plan.gpu, containers, plan.nodes), node_class(containers))()
    first = len(calls) - plan.nodes  # a gateway of its own container is called before the nodes
    for node_rank in missing:
        if done.is_set():
            return
        modal.FunctionCall.from_id(calls[first + node_rank]).cancel(terminate_containers=True)
        calls[first + node_rank] = node_of.serve.spawn(meeting.key, node_rank, INSTEAD).object_id
        meeting.put("calls", Calls(calls[0], calls[1:], plan.nodes))
        yield node_rank
