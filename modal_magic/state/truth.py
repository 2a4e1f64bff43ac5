"""What is true of one session now, and the smallest steps that change it. Their effects are gathered as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from modal_magic import protocol as p
from modal_magic.state.active_run import ActiveRun
from modal_magic.state.lease import Lease
from modal_magic.state.queue import Queue
from modal_magic.state.settings import Settings
from modal_magic.state.tables import RANK_TABLE, SESSION_TABLE, RankState, SessionState, UnexpectedEvent
from modal_magic.state.words import Effect, Log, NodeJoined, Tell
from modal_magic.topology import Rendezvous, place

__all__ = ["Rank", "Truth"]


@dataclass(slots=True)
class Rank:
    """What the machine knows of one rank.

    `attempts` counts its starts since it last was of use, `used` says that it ever was. `health` is the last that it
    told of its process groups.
    """

    state: RankState = RankState.LAUNCHING
    pid: int = 0
    device: str = ""
    attempts: int = 0
    used: bool = False
    health: p.Health | None = None
    history: deque[str] = field(default_factory=lambda: deque(maxlen=8))


class Truth:
    """What is true of one session now.

    `silent` are nodes that may come back with their ranks, `expected` those that come back with fresh ones; `returned`
    says that one has. `rendezvous` is None until all nodes are
    there. `restarts` are the requests that are answered when the session is free again, and `restarting`
    the ranks that are still to end for them. `together` says that all ranks can be in one process group;
    `group_trouble` why they are without one although they could. `awaits_nodes` says that the timer of nodes runs.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.state = SessionState.LAUNCHING
        self.generation = 1
        self.ranks = [Rank() for _ in range(settings.topology.world_size)]
        self.nodes: dict[int, NodeJoined] = {}
        self.silent: set[int] = set()
        self.expected: set[int] = set()
        self.returned = False
        self.rendezvous: Rendezvous | None = None
        self.active: ActiveRun | None = None
        self.queue = Queue()
        self.restarts: list[tuple[bytes, str]] = []
        self.restarting: set[int] = set()
        self.clients = 0
        self.together = True
        self.regroups = False
        self.group_attempts = 0
        self.group_trouble = ""
        self.closing_reason = ""
        self.lease = Lease(settings.lease, settings.idle, settings.max_lifetime)
        self.awaits_nodes = False
        self.effects: list[Effect] = []

    def do(self, *effects: Effect) -> None:
        """Have these effects done, after those before."""
        self.effects.extend(effects)

    def enter(self, state: SessionState, reason: str = "") -> None:
        """Be in another state, and say so. Raises UnexpectedEvent where the table has no such step."""
        if state is self.state:
            return
        if state not in SESSION_TABLE[self.state]:
            raise UnexpectedEvent(f"a session cannot go from {self.state} to {state}")
        self.state = state
        self.do(Log(p.SessionChanged(state, self.generation, reason)))

    def advance(self, number: int, event: p.Message) -> Rank:
        """Move a rank as its table says, and return it. Raises UnexpectedEvent where the table has no such step."""
        rank, kind = self.ranks[number], type(event)
        after = RANK_TABLE.get((rank.state, kind))
        if after is None:
            history = ", ".join(rank.history) or "nothing"
            raise UnexpectedEvent(f"rank {number} is {rank.state} and cannot take {kind.__name__}; before: {history}")
        rank.history.append(kind.__name__)
        rank.state = after
        return rank

    def those(self, *states: RankState) -> list[int]:
        """The ranks that are in one of these states."""
        return [number for number, rank in enumerate(self.ranks) if rank.state in states]

    def by_node(self, ranks: Iterable[int]) -> dict[int, list[int]]:
        """Ranks by their node, as far as it is there."""
        found: dict[int, list[int]] = {}
        for rank in ranks:
            node_rank = self.settings.topology.node_of(rank)
            if node_rank in self.nodes:
                found.setdefault(node_rank, []).append(rank)
        return found

    def tell_ranks(self, ranks: Iterable[int], order: Callable[..., p.Order], *rest: object) -> None:
        """Give the nodes of these ranks an order about them."""
        self.do(*(Tell(node_rank, order(numbers, *rest)) for node_rank, numbers in self.by_node(ranks).items()))

    def launch(self, ranks: Iterable[int]) -> None:
        """Have the workers of these ranks started."""
        assert self.rendezvous is not None
        topology, environment = self.settings.topology, self.settings.environment
        for node_rank, numbers in self.by_node(ranks).items():
            node = self.nodes[node_rank]
            accelerated = self.settings.accelerated and node.accelerators >= topology.ranks_per_node
            places = [
                place(topology, rank, self.rendezvous, node.cores, accelerated, environment, self.ranks[rank].used)
                for rank in numbers
            ]
            self.do(Tell(node_rank, p.Launch(places, self.generation, self.settings.store)))
