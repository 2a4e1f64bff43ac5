"""The process group: how it comes to be, how it is formed anew, and what is done where it does not form."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.ranges import name_ranks
from modal_magic.state.advice import why_degraded
from modal_magic.state.closing import begin_closing
from modal_magic.state.tables import FREE, RankState, SessionState
from modal_magic.state.truth import Truth
from modal_magic.state.words import Answer, SetTimer

__all__ = [
    "ALONE_SECONDS",
    "ATTEMPTS",
    "GROUP_SECONDS",
    "group_failed",
    "grouped",
    "launched",
    "open_session",
    "overdue",
    "regroup",
    "revive",
]

GROUP_SECONDS = 120.0
"""How long ranks have to start and to form a process group before something is done about it."""
ALONE_SECONDS = 30.0
"""How long a rank that is up has to be without a group. One that takes longer is stuck, for it waits for nobody."""
ATTEMPTS = 3
"""How often a rank or a group is tried in a row before the session goes on without it."""

R, S = RankState, SessionState


# ---- what ranks say --------------------------------------------------------------------------------------------------


def launched(truth: Truth, event: p.Launched) -> None:
    """The worker of a rank is up."""
    truth.advance(event.rank, event).pid = event.pid


def grouped(truth: Truth, event: p.Grouped) -> None:
    """A rank is in the group."""
    if event.generation != truth.generation:
        return
    rank = truth.advance(event.rank, event)
    rank.attempts, rank.used = 0, True
    rank.device, rank.health = event.device, event.health


def group_failed(truth: Truth, event: p.GroupFailed) -> None:
    """A rank could not join the group."""
    if event.generation != truth.generation:
        return
    truth.advance(event.rank, event)
    who = name_ranks([event.rank])
    _no_group(truth, f"{who} could not join the process group: {event.error.name}: {event.error.message}")


# ---- what is done ----------------------------------------------------------------------------------------------------


def regroup(truth: Truth) -> None:
    """Have every rank that lives join the next generation's group; alone where some will not come."""
    truth.generation += 1
    truth.regroups = False
    together = not _alone(truth)
    order = p.Regroup(truth.generation, together)
    present = truth.those(*FREE, R.RENDEZVOUS)
    for number in present:
        truth.advance(number, order)
    if truth.state is not S.LAUNCHING:
        truth.enter(S.RECOVERING)
    waits = together or bool(truth.those(R.LAUNCHING, R.LOST))
    truth.do(SetTimer("group", GROUP_SECONDS if waits else ALONE_SECONDS))
    # A worker that is only starting was told an older generation: it must hear of this one too.
    truth.tell_ranks([*present, *truth.those(R.LAUNCHING)], p.RegroupRanks, truth.generation, together)


def revive(truth: Truth) -> None:
    """Start the workers of lost ranks anew, empty, where their node is there and they do not die at every start."""
    lost = truth.those(R.LOST)
    coming = [
        number
        for number in lost
        if truth.settings.topology.node_of(number) in truth.nodes and truth.ranks[number].attempts < ATTEMPTS
    ]
    together, before = len(coming) == len(lost), truth.together
    truth.together = together
    if coming:
        truth.group_attempts, truth.group_trouble = 0, ""  # another rank, another chance
    returned, truth.returned = truth.returned, False
    if (coming or returned) and together and truth.settings.grouped:
        regroup(truth)
    elif (coming or returned) and truth.state is not S.LAUNCHING:
        truth.enter(S.RECOVERING)
        truth.do(SetTimer("group", GROUP_SECONDS))
    if coming and not together and truth.settings.grouped:
        truth.generation += 1  # those that start must not come to a group that others have left already
    for number in coming:
        truth.ranks[number].attempts += 1
        truth.advance(number, p.Launch([], 0, None))
    truth.launch(coming)
    if truth.settings.grouped and not together and (before or coming or returned):
        regroup(truth)  # those that are there neither wait for those that will not come nor talk to them


def open_session(truth: Truth) -> None:
    """Say READY when every rank is free, DEGRADED when the others are and some will not come back."""
    lost = truth.those(R.LOST)
    if len(truth.those(*FREE)) + len(lost) < len(truth.ranks):
        return
    if lost:
        truth.enter(S.DEGRADED, why_degraded(truth, lost))
    elif truth.group_trouble:
        truth.enter(S.DEGRADED, f"{truth.group_trouble}. Cells run without a group; %modal_restart tries once more")
    else:
        truth.group_attempts = 0
        truth.enter(S.READY)
    truth.do(SetTimer("group", None))
    truth.do(*(Answer(client, p.Done(request)) for client, request in truth.restarts))
    truth.restarts.clear()


def overdue(truth: Truth) -> None:
    """The time is over that ranks have to start and to form a group."""
    if truth.rendezvous is None:
        missing = [str(node) for node in range(truth.settings.topology.nodes) if node not in truth.nodes]
        begin_closing(truth, f"node {', '.join(missing)} went away before the session was up")
    elif starting := truth.those(R.LAUNCHING):
        _replace(truth, starting, f"did not start within {GROUP_SECONDS:g} s and was killed")
    elif stuck := truth.those(R.RENDEZVOUS):
        if _alone(truth):
            _replace(truth, stuck, "stopped answering and was killed")
            return
        if truth.state is not S.LAUNCHING:
            # A rank that cannot connect says so. Of those that say nothing some wait and some are stuck: alone,
            # it shows which.
            truth.group_attempts = ATTEMPTS
        _no_group(truth, f"the process group did not form within {GROUP_SECONDS:g} s")


def _no_group(truth: Truth, reason: str) -> None:
    """A group could not be formed: try again, and when that is of no use go on without one."""
    truth.group_attempts += 1
    if truth.group_attempts < ATTEMPTS:
        regroup(truth)
    elif truth.state is S.LAUNCHING:
        begin_closing(truth, reason)
    else:
        truth.group_trouble = reason
        regroup(truth)  # nobody waits any longer for a group that will not be


def _alone(truth: Truth) -> bool:
    """Whether the ranks are not to wait for each other."""
    return not truth.settings.grouped or not truth.together or bool(truth.group_trouble)


def _replace(truth: Truth, ranks: list[int], cause: str) -> None:
    """Have stuck ranks ended: lost, they are started anew."""
    truth.tell_ranks(ranks, p.KillRanks, cause)
    truth.do(SetTimer("group", GROUP_SECONDS))
