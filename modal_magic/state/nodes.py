"""The nodes of a session: they join, fall silent, come back or are gone, and their ranks with them."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.ranges import format_ranks, name_ranks
from modal_magic.state.closing import begin_closing, close
from modal_magic.state.group import GROUP_SECONDS
from modal_magic.state.running import lost
from modal_magic.state.tables import RankState
from modal_magic.state.truth import Truth
from modal_magic.state.words import Log, NodeGone, NodeJoined, SetTimer
from modal_magic.topology import Rendezvous

__all__ = ["await_nodes", "node_gone", "node_joined", "not_returned", "patience_over"]

R = RankState


def node_joined(truth: Truth, joined: NodeJoined) -> None:
    """An agent has said its first word. Once all have, the ranks are started."""
    if joined.node_rank not in range(truth.settings.topology.nodes):
        return
    if (before := truth.nodes.get(joined.node_rank)) is not None:
        if before.pid == joined.pid:  # it was asked twice
            return
        _lose_ranks(
            truth, joined.node_rank, f"ended with the agent of node {joined.node_rank}, which {joined.predecessor}"
        )
    truth.nodes[joined.node_rank] = joined
    truth.expected.discard(joined.node_rank)
    truth.do(SetTimer(f"return of node {joined.node_rank}", None))
    if joined.node_rank in truth.silent:
        truth.silent.discard(joined.node_rank)
        _welcome_back(truth, joined)
    if truth.rendezvous is not None and joined.node_rank == 0:  # it may have come back elsewhere
        truth.rendezvous = Rendezvous(joined.address, joined.port, truth.settings.i6pn)
    if truth.rendezvous is not None or len(truth.nodes) < truth.settings.topology.nodes:
        return  # of one that comes back, `revive` starts the ranks that are lost
    truth.rendezvous = Rendezvous(truth.nodes[0].address, truth.nodes[0].port, truth.settings.i6pn)
    truth.launch(truth.those(R.LAUNCHING))
    truth.do(SetTimer("group", GROUP_SECONDS))
    needs = truth.settings.topology.ranks_per_node
    short = [node.accelerators for node in truth.nodes.values() if node.accelerators < needs]
    if truth.settings.accelerated and short:
        found = f"found {short[0]} GPU{'s' * (short[0] != 1)} for {needs} rank{'s' * (needs != 1)} of a node"
        truth.do(Log(p.Notice(f"{found}: they run on the CPU instead")))


def node_gone(truth: Truth, gone: NodeGone) -> None:
    """An agent has left or fallen silent: its ranks are lost, and it may come back where it is only silent."""
    truth.nodes.pop(gone.node_rank, None)
    verb = "went silent" if gone.silent else "ended"
    _lose_ranks(truth, gone.node_rank, f"{verb} with node {gone.node_rank}, which {gone.cause}", replaced=False)
    if gone.silent:
        truth.silent.add(gone.node_rank)
        truth.do(SetTimer(f"return of node {gone.node_rank}", p.DEAD_MAN_SECONDS))
    else:
        _give_up(truth, gone.node_rank, gone.cause, gone.returns)
    if truth.nodes and truth.rendezvous is None:  # it may come back, but nobody waits for it for ever
        truth.do(SetTimer("group", GROUP_SECONDS))


def not_returned(truth: Truth, node_rank: int) -> None:
    """The time is over in which a node could have come back: one that was silent, or one with fresh ranks."""
    truth.expected.discard(node_rank)
    if node_rank not in truth.silent:
        return
    _give_up(truth, node_rank, "stopped answering", returns=True)
    if truth.nodes and truth.rendezvous is None and not truth.awaits_nodes:  # nobody else would end the wait
        begin_closing(truth, f"node {node_rank} stopped answering before the session was up")


def await_nodes(truth: Truth) -> None:
    """Have the session end after its patience while not all nodes have been there yet, or none is any more."""
    missing = truth.rendezvous is None or not (truth.nodes or truth.silent)
    awaiting = missing and truth.settings.patience is not None
    if awaiting != truth.awaits_nodes:
        truth.awaits_nodes = awaiting
        truth.do(SetTimer("nodes", truth.settings.patience if awaiting else None))


def patience_over(truth: Truth) -> None:
    """Nodes have not come in the time that they were given."""
    assert truth.settings.patience is not None
    if truth.rendezvous is not None:
        begin_closing(truth, f"no node is left, and none has come back within {truth.settings.patience:g} s")
        return
    here, count = sorted(truth.nodes), truth.settings.topology.nodes
    queued = [node_rank for node_rank in range(count) if node_rank not in truth.nodes]
    which = f"node{'s' * (len(queued) != 1)} {format_ranks(queued)} of {count}"
    verb = "is" if len(queued) == 1 else "are"
    others = f"; node{'s' * (len(here) != 1)} {format_ranks(here)} started and ended again" if here else ""
    begin_closing(truth, f"{which} {verb} still queued after {truth.settings.patience:g} s{others}")


def _lose_ranks(truth: Truth, node_rank: int, cause: str, replaced: bool = True) -> None:
    for rank in truth.settings.topology.ranks_of(node_rank):
        if truth.ranks[rank].state is not R.LOST:
            event = p.Lost(rank, cause, replaced=replaced)
            truth.do(Log(event))
            lost(truth, event)


def _give_up(truth: Truth, node_rank: int, cause: str, returns: bool) -> None:
    """A node will not come back with its ranks. Without any node there is no session.

    One that was up waits for nodes that return as it waited for all to come, where it does so with patience.
    """
    truth.silent.discard(node_rank)
    truth.do(SetTimer(f"return of node {node_rank}", None))
    waits = returns and truth.rendezvous is not None and truth.settings.patience is not None
    if waits:
        truth.expected.add(node_rank)
        truth.do(SetTimer(f"return of node {node_rank}", truth.settings.patience))
    if not truth.nodes and not truth.silent and not waits:
        close(truth, f"node {node_rank} {cause}, and no node is left")


def _welcome_back(truth: Truth, joined: NodeJoined) -> None:
    """A node that fell silent is there again: its workers have kept their variables, and leave what they ran."""
    own = truth.settings.topology.ranks_of(joined.node_rank)
    back = [alive for alive in joined.workers if alive.rank in own and truth.ranks[alive.rank].state is R.LOST]
    for alive in back:
        truth.advance(alive.rank, p.Returned(alive.rank) if alive.launched else p.Launch([], 0, None))
        truth.ranks[alive.rank].pid = alive.pid
        truth.do(Log(p.Returned(alive.rank)))
        if alive.run:
            truth.tell_ranks([alive.rank], p.InterruptRanks, alive.run)
    truth.returned = truth.returned or bool(back)
    if back and not truth.settings.grouped:
        truth.tell_ranks([alive.rank for alive in back], p.RegroupRanks, truth.generation, True)
    who = name_ranks([alive.rank for alive in back])
    kept = f": {who} kept {'its' if len(back) == 1 else 'their'} variables" if back else ""
    truth.do(Log(p.Notice(f"node {joined.node_rank} answers again{kept}")))
