"""The end of a session: every run ends, nodes are told to end their workers, and nobody waits for them for ever."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.state.tables import SessionState
from modal_magic.state.truth import Truth
from modal_magic.state.words import Answer, Asked, End, Fired, Log, NodeGone, NodeJoined, SetTimer, Stimulus, Tell

__all__ = ["CLOSING_SECONDS", "begin_closing", "close", "while_closing"]

CLOSING_SECONDS = 5.0
"""How long nodes have to end their workers before the gateway leaves without them."""


def begin_closing(truth: Truth, reason: str) -> None:
    """Have the nodes end."""
    truth.closing_reason = reason
    truth.enter(SessionState.CLOSING, reason)  # first of all: it is why runs end now
    _abandon(truth)
    if not truth.nodes:
        close(truth, reason)
        return
    truth.do(*(Tell(node_rank, p.Shutdown()) for node_rank in truth.nodes))
    truth.do(SetTimer("closing", CLOSING_SECONDS))


def while_closing(truth: Truth, stimulus: Stimulus) -> None:
    """Take what happens while nodes end."""
    match stimulus:
        case NodeJoined(node_rank=node_rank) if node_rank in range(truth.settings.topology.nodes):
            truth.nodes[node_rank] = stimulus
            truth.do(Tell(node_rank, p.Shutdown()))
        case NodeGone(node_rank=node_rank):
            truth.nodes.pop(node_rank, None)
            if not truth.nodes:
                close(truth, truth.closing_reason)
        case Fired(timer="closing"):
            close(truth, f"{truth.closing_reason}; not every node said goodbye")
        case Asked(
            client=client, request=p.Run(task=p.Execute(run=name)) | p.Restart(request=name) | p.SetLimits(request=name)
        ):
            truth.do(Answer(client, p.Refused(name, "the session is closing")))


def close(truth: Truth, reason: str) -> None:
    """End the session."""
    _abandon(truth)
    truth.enter(SessionState.CLOSED, reason)
    truth.do(End(reason))


def _abandon(truth: Truth) -> None:
    """Every run ends, also when the session does."""
    if truth.active is not None:
        truth.do(Log(truth.active.verdict()))
        truth.active = None
    truth.do(*truth.queue.clear())
