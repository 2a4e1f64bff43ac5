"""Nodes, ranks, and what each rank finds in its environment."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from modal_magic.topology import Rendezvous, Topology, place, rank_environment

RENDEZVOUS = Rendezvous("fdaa:0:1::2", 29500, True)
topologies = some.builds(Topology, some.integers(1, 128), some.integers(1, 8))


def torchrun_names() -> set[str]:
    """The variables that the installed torchrun sets for its workers, read from its source without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        pytest.skip("torch is not installed")
    source = Path(spec.origin).parent / "distributed/elastic/agent/server/local_elastic_agent.py"
    for node in ast.walk(ast.parse(source.read_text())):
        named = isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets]
        if named == ["worker_env"] and isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            return {str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)} | {"LOCAL_RANK"}
    raise AssertionError("torchrun sets its environment elsewhere now")


@settings(deadline=None)
@given(topologies)
def test_every_rank_runs_on_one_node(topology: Topology) -> None:
    ranks = [rank for node_rank in range(topology.nodes) for rank in topology.ranks_of(node_rank)]
    assert ranks == list(range(topology.world_size))
    assert all(rank in topology.ranks_of(topology.node_of(rank)) for rank in ranks)


def test_a_rank_finds_what_torchrun_would_have_given_it() -> None:
    assert (
        rank_environment(Topology(2, 4), 6, RENDEZVOUS, cores=16).items()
        >= {
            "RANK": "6",
            "LOCAL_RANK": "2",
            "WORLD_SIZE": "8",
            "LOCAL_WORLD_SIZE": "4",
            "GROUP_RANK": "1",
            "GROUP_WORLD_SIZE": "2",
            "NODE_RANK": "1",
            "ROLE_NAME": "default",
            "ROLE_RANK": "6",
            "ROLE_WORLD_SIZE": "8",
            "MASTER_ADDR": "fdaa:0:1::2",
            "MASTER_PORT": "29500",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_MAX_RESTARTS": "0",
            "OMP_NUM_THREADS": "4",
            "MKL_NUM_THREADS": "4",
            "OPENBLAS_NUM_THREADS": "4",
            "NUMEXPR_NUM_THREADS": "4",
            "MODAL_I6PN_ENABLED": "1",
        }.items()
    )


def test_no_name_that_torchrun_sets_is_missing() -> None:
    # The agent's store is not the way: on torch 2.13 the second init of a process fails with it.
    expected = torchrun_names() - {"TORCHELASTIC_USE_AGENT_STORE"}
    assert expected - rank_environment(Topology(1, 2), 0, RENDEZVOUS, cores=2).keys() == set()


@settings(deadline=None)
@given(topologies, some.data())
def test_ranks_agree_about_the_whole_and_differ_in_their_places(topology: Topology, data: some.DataObject) -> None:
    ranks = data.draw(some.lists(some.integers(0, topology.world_size - 1), min_size=2, max_size=6, unique=True)
                      if topology.world_size > 1 else some.just([0]))  # fmt: skip
    found = [rank_environment(topology, rank, RENDEZVOUS, cores=8) for rank in ranks]
    own = {"RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "ROLE_RANK"}
    assert all(
        {key: value for key, value in one.items() if key not in own}.items() <= found[0].items() for one in found
    )
    for rank, one in zip(ranks, found, strict=True):
        assert int(one["RANK"]) == rank
        assert int(one["GROUP_RANK"]) * int(one["LOCAL_WORLD_SIZE"]) + int(one["LOCAL_RANK"]) == rank


@pytest.mark.parametrize(("cores", "ranks_per_node", "threads"), [(16, 4, "4"), (2, 4, "1"), (7, 2, "3"), (1, 1, "1")])
def test_ranks_of_a_node_share_its_cores(cores: int, ranks_per_node: int, threads: str) -> None:
    environment = rank_environment(Topology(1, ranks_per_node), 0, RENDEZVOUS, cores)
    assert {environment[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")} == {threads}


def test_nodes_that_are_not_joined_by_i6pn_say_so() -> None:
    environment = rank_environment(Topology(1, 1), 0, Rendezvous("127.0.0.1", 1, False), 1)
    assert environment["MODAL_I6PN_ENABLED"] == "0"


def test_what_the_user_sets_wins_and_the_rest_stays() -> None:
    own = {"OMP_NUM_THREADS": "9", "MASTER_PORT": "1", "NCCL_DEBUG": "INFO"}
    found = place(Topology(1, 2), 1, RENDEZVOUS, 8, False, own).environment
    assert found == rank_environment(Topology(1, 2), 1, RENDEZVOUS, 8) | own
    assert own == {"OMP_NUM_THREADS": "9", "MASTER_PORT": "1", "NCCL_DEBUG": "INFO"}


def test_a_rank_has_the_gpu_of_its_place_on_the_node() -> None:
    topology = Topology(2, 4)
    accelerated = [place(topology, rank, RENDEZVOUS, 8, True, {}).device for rank in range(8)]
    assert accelerated == [f"cuda:{number}" for number in (0, 1, 2, 3)] * 2
    assert {place(topology, rank, RENDEZVOUS, 8, False, {}).device for rank in range(8)} == {"cpu"}
