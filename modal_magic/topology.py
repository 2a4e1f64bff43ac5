"""From a shape to nodes × ranks, and each rank's environment (torchrun's, plus what Modal users expect)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modal_magic.protocol import Place

__all__ = ["Rendezvous", "Topology", "place", "rank_environment"]


@dataclass(frozen=True, slots=True)
class Topology:
    """How many nodes there are and how many ranks run on each; ranks are numbered node by node, as torchrun does."""

    nodes: int
    ranks_per_node: int

    @property
    def world_size(self) -> int:
        """The number of ranks of the session."""
        return self.nodes * self.ranks_per_node

    def node_of(self, rank: int) -> int:
        """The node_rank of the node that a rank runs on."""
        return rank // self.ranks_per_node

    def ranks_of(self, node_rank: int) -> range:
        """The ranks that run on a node."""
        return range(node_rank * self.ranks_per_node, (node_rank + 1) * self.ranks_per_node)


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """What every rank is told of the whole: where node 0 is reached, and whether nodes are joined by i6pn."""

    address: str
    port: int
    i6pn: bool


def rank_environment(topology: Topology, rank: int, rendezvous: Rendezvous, cores: int) -> dict[str, str]:
    """The environment of a rank: all that torchrun sets, with the values that it would set, and MODAL_I6PN_ENABLED.

    `cores` is the number of CPU cores of the rank's node. Thread counts are max(1, cores // ranks on the node):
    torchrun sets 1, unset costs ten times and more when ranks share cores.
    Source: torch.distributed.run, "Environment Variables".
    """
    threads = str(max(1, cores // topology.ranks_per_node))
    node_rank = str(topology.node_of(rank))
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % topology.ranks_per_node),
        "WORLD_SIZE": str(topology.world_size),
        "LOCAL_WORLD_SIZE": str(topology.ranks_per_node),
        "GROUP_RANK": node_rank,
        "GROUP_WORLD_SIZE": str(topology.nodes),
        "NODE_RANK": node_rank,
        "ROLE_NAME": "default",
        "ROLE_RANK": str(rank),
        "ROLE_WORLD_SIZE": str(topology.world_size),
        "MASTER_ADDR": rendezvous.address,
        "MASTER_PORT": str(rendezvous.port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "NUMEXPR_NUM_THREADS": threads,
        "MODAL_I6PN_ENABLED": "1" if rendezvous.i6pn else "0",
    }


def place(
    topology: Topology,
    rank: int,
    rendezvous: Rendezvous,
    cores: int,
    accelerated: bool,
    overrides: Mapping[str, str],
    anew: bool = False,
) -> Place:
    """What the worker of a rank must be told at its start; `overrides` are the user's own variables, which win."""
    environment = rank_environment(topology, rank, rendezvous, cores) | dict(overrides)
    return Place(rank, environment, f"cuda:{rank % topology.ranks_per_node}" if accelerated else "cpu", anew)
