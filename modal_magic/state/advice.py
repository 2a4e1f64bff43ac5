"""What is said of ranks that are lost and not started again: why, and what to do next."""

from __future__ import annotations

from modal_magic.ranges import format_ranks, name_ranks
from modal_magic.state.tables import FREE
from modal_magic.state.truth import Truth

__all__ = ["START_ANEW", "away", "name_nodes", "why_degraded", "why_refused"]

START_ANEW = "%modal_stop ends the session, the next cell starts anew"


def away(truth: Truth, ranks: list[int]) -> list[int]:
    """The nodes of these ranks that are not there and may come back."""
    return [node for node in _nodes(truth, ranks) if node in truth.silent | truth.expected]


def why_degraded(truth: Truth, lost: list[int]) -> str:
    """Why a session goes on without these ranks."""
    if not truth.nodes and not truth.silent:
        return f"no node is left: ranks start anew, without variables, when theirs is back. Otherwise {START_ANEW}"
    others = "Until then --ranks names others" if truth.those(*FREE) else f"Otherwise {START_ANEW}"
    silent = [rank for rank in lost if truth.settings.topology.node_of(rank) in truth.silent]
    if silent:
        nodes = _nodes(truth, silent)
        kept = "back with all variables" if any(truth.ranks[rank].used for rank in silent) else "there"
        it_does = "it does" if len(nodes) == 1 else "they do"
        return f"{_silence(nodes)}: {name_ranks(silent)} will be {kept} if {it_does}. {others}"
    if nodes := away(truth, lost):
        return f"{_anew(lost)}, without variables, when {name_nodes(nodes)} back. {others}"
    again = "%modal_restart tries once more" if truth.by_node(lost) else "--ranks names others"
    return f"{name_ranks(lost)} cannot be started again: {again}"


def why_refused(truth: Truth, gone: list[int]) -> str:
    """Why a cell cannot run on these ranks."""
    one = len(gone) == 1
    told = f"{name_ranks(gone)} {'is' if one else 'are'} lost"
    if not truth.nodes and not truth.silent:
        starts = "it starts anew when its node" if one else "they start anew when theirs"
        return f"{told}, for no node is left: {starts} is back. Otherwise {START_ANEW}"
    ways = ["--ranks names others"] if truth.those(*FREE) else []
    nodes = away(truth, gone)
    if silent := [node for node in nodes if node in truth.silent]:
        told += f", for {_silence(silent)}"
    elif nodes:
        ways.append(f"{_anew(gone)} when {name_nodes(nodes)} back")
    elif truth.by_node(gone):
        ways.append(f"%modal_restart tries to start {'it' if one else 'them'} again")
    return f"{told}: {', '.join(ways) or START_ANEW}"


def name_nodes(nodes: list[int]) -> str:
    """`node 1 is`, `nodes 0-1 are`."""
    return f"node {nodes[0]} is" if len(nodes) == 1 else f"nodes {format_ranks(nodes)} are"


def _anew(ranks: list[int]) -> str:
    return f"{name_ranks(ranks)} {'starts' if len(ranks) == 1 else 'start'} anew"


def _nodes(truth: Truth, ranks: list[int]) -> list[int]:
    return sorted({truth.settings.topology.node_of(rank) for rank in ranks})


def _silence(nodes: list[int]) -> str:
    return f"node {nodes[0]} does not answer" if len(nodes) == 1 else f"nodes {format_ranks(nodes)} do not answer"
