"""The faults that befall what is no rank: agents, the zygote and the gateway (docs/failures.md says what must hold)."""

from __future__ import annotations

import signal
from collections.abc import Callable
from random import Random

from tests.chaos.faults import RANKS, WAITS, Fault, Hit, one_apart

__all__ = ["ENDS", "NODES", "ON_NODES"]

NODES = 2
SILENCE_SECONDS = 3.0
"""From the moment at which a node falls silent to control: nobody can know it at once."""


def _node(random: Random) -> tuple[int, tuple[int, ...], str, str]:
    """A node, its ranks, what the ranks do while it is hit, and a cell of that."""
    node = random.randrange(NODES)
    ranks = tuple(range(node * RANKS // NODES, (node + 1) * RANKS // NODES))
    where, others = random.choice([*list(WAITS.items())[:4], ("sleep", "time.sleep(60)")])
    return node, ranks, where, one_apart(random.choice(ranks), "time.sleep(60)", others)


def agent_dies(random: Random) -> Fault:
    """The agent of a node is killed: its ranks end with it, and are started anew by another."""
    node, ranks, where, cell = _node(random)
    return Fault(
        f"the agent of node {node} is killed, the others: {where}",
        cell,
        ("RankFailed",),
        (
            f"ranks {ranks[0]}-{ranks[-1]} ended with the agent of node {node}, which was killed by SIGKILL",
            "started again without variables",
        ),
        frozenset(ranks),
        hits=(Hit(random.uniform(0, 0.4), f"agent {node}"),),
    )


def agent_stops(random: Random) -> Fault:
    """The agent of a node is stopped, as if its network were gone: the others are freed, and it comes back."""
    node, ranks, where, cell = _node(random)
    return Fault(
        f"the agent of node {node} is stopped, the others: {where}",
        cell,
        ("RankFailed",),
        (f"ranks {ranks[0]}-{ranks[-1]} went silent with node {node}, which stopped answering",),
        hits=(Hit(random.uniform(0, 0.4), f"agent {node}", signal.SIGSTOP),),
        control=SILENCE_SECONDS,
    )


def gateway_dies(random: Random) -> Fault:
    """The gateway is killed: the session is over."""
    _, _, where, cell = _node(random)
    return Fault(
        f"the gateway is killed, the others: {where}",
        cell,
        ("GatewayLost",),
        ("its ranks end by themselves, and their variables are lost",),
        hits=(Hit(random.uniform(0, 0.4), "gateway"),),
        ends=True,
    )


def zygote_dies(random: Random) -> Fault:
    """The zygote is killed, then a rank: nobody can say why that one ended, and it does not come back."""
    rank, when = random.randrange(RANKS), random.uniform(0, 0.4)
    where, others = random.choice([*list(WAITS.items())[:4], ("sleep", "time.sleep(60)")])
    return Fault(
        f"the zygote and then rank {rank} are killed, the others: {where}",
        one_apart(rank, "time.sleep(60)", others),
        ("RankFailed",),
        (f"rank {rank} is gone; with the zygote of its node gone too, nobody can say why",),
        hits=(Hit(when, "zygote"), Hit(when + random.uniform(0.1, 0.5), f"rank {rank}")),
        ends=True,
        left=tuple(other for other in range(RANKS) if other != rank),
    )


ON_NODES: dict[Callable[[Random], Fault], int] = {agent_dies: 1, agent_stops: 1}
"""What a session survives."""
ENDS: dict[Callable[[Random], Fault], int] = {gateway_dies: 1, zygote_dies: 1}
"""What it does not."""
