"""What runs in the container of a node on Modal. Each call serves for the life of a session.

The entrypoint of a container has threads, so a node's zygote is a process of its own. It is made before the memory
snapshot; whatever belongs to one container alone (address, GPU, sockets, random numbers) comes after it.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time

import modal
import msgspec

from modal_magic.backends.modal_gateway import LOOPBACK, container, i6pn_address, own_gateway
from modal_magic.backends.modal_meeting import GatewayAt, Meeting, NodeAt, Ticket
from modal_magic.backends.modal_trouble import TROUBLE
from modal_magic.backends.modal_volumes import commit_all, offered
from modal_magic.backends.zygotes import Zygote, await_ready, spawn
from modal_magic.errors import SessionError
from modal_magic.protocol import Stage
from modal_magic.specs import EndNode, StartAgent, Take
from modal_magic.waits import ended

__all__ = ["ColdNode", "Node"]

PRELOAD = "MODAL_MAGIC_PRELOAD"
"""The variable that names the modules to import before the snapshot, with spaces between them."""
SNAPSHOTTED = "MODAL_ENABLE_SNAP_RESTORE"
"""The variable that Modal sets to 1 in a container that makes a snapshot or starts from one."""
NO_SNAPSHOT = (
    "Modal had no snapshot of the GPU's memory, or could not restore it: nodes start without, as with --snapshot off"
)
RESTORED_SECONDS = 5.0
"""How long a zygote has to answer after a snapshot was restored."""
LEAVE_SECONDS = 8.0
"""How long a node has to end its ranks when its call is cancelled, and beyond its grace when it is preempted."""
GRACE_SECONDS = 20.0
"""How long ranks have to save what they have when their node is preempted. Modal gives a container about 30 s."""


def new_zygote() -> Zygote:
    """Start a zygote for this node. It imports torch meanwhile."""
    return spawn(os.environ, preload=os.environ.get(PRELOAD, "").split())


def reseed() -> None:
    """Random numbers of this container's own: all that are restored from one snapshot would draw the same."""
    random.seed(os.urandom(32))


class _Serving:
    """What nodes with and without a snapshot have in common."""

    zygote: Zygote | None = None
    notice: str = ""
    built_in: str = ""
    stages: tuple[Stage, ...] = ()

    @modal.method()
    def serve(self, key: str, node_rank: int | None, why: str = "") -> None:
        """Be a node of the session until it ends. `node_rank` is None in a cluster, where Modal has ranked nodes.

        `why` is what the user should know of this call.
        """
        assert self.zygote is not None
        zygote, notice, stages = self.zygote, why or self.notice, self.stages
        self.zygote, self.notice, self.stages = None, "", ()
        try:
            meeting = Meeting(key)
            ticket = meeting.get("ticket", Ticket)
            if ticket is not None and not meeting.over():
                rank = modal.Cluster.from_context().container_rank() if node_rank is None else node_rank
                if ticket.snapshot == "gpu" and os.environ.get(SNAPSHOTTED) != "1":
                    notice = notice or NO_SNAPSHOT
                with contextlib.nullcontext() if ticket.gateway.i6pn else own_gateway(meeting, ticket):
                    serve_node(zygote, meeting, ticket, rank, notice, stages)
        finally:
            zygote.let_go()
        self.zygote = new_zygote()  # where the container is kept for another session

    def make_ready(self) -> None:
        """Have a zygote import torch, and what `--preload` names."""
        began = time.time()
        self.zygote = new_zygote()
        await_ready(self.zygote)
        self.built_in, self.stages = container(), (Stage("cold start", began, time.time() - began),)

    @modal.exit()
    def end(self) -> None:
        """Let go of the zygote that no session took."""
        if self.zygote is not None:
            self.zygote.end()


class Node(_Serving):
    """One node of a session, started from a memory snapshot that holds its zygote."""

    @modal.enter(snap=True)
    def build(self) -> None:
        """What is done before the snapshot."""
        self.make_ready()

    @modal.enter(snap=False)
    def wake(self) -> None:
        """After the snapshot: look whether the zygote came back, and start another where it did not."""
        reseed()
        assert self.zygote is not None
        began = time.time()
        if self.zygote.answers(RESTORED_SECONDS):
            if self.built_in != container():
                self.stages = (Stage("restore", began, time.time() - began),)
            return
        self.zygote.end()
        self.make_ready()
        # Without the time that it took: nodes that have the same to say are heard once.
        self.notice = (
            "the memory snapshot did not bring back the process that forks ranks, so nodes start as with --snapshot off"
        )


class ColdNode(_Serving):
    """One node of a session, with `--snapshot off` or `--clustered`."""

    @modal.enter()
    def build(self) -> None:
        """All that there is to do."""
        self.make_ready()


def serve_node(
    zygote: Zygote, meeting: Meeting, ticket: Ticket, node_rank: int, notice: str, stages: tuple[Stage, ...]
) -> None:
    """Have a zygote run the agent and the workers of a node, until the session ends or the container must go."""
    address = i6pn_address() if ticket.gateway.i6pn else LOOPBACK
    generation = meeting.arrive(node_rank, NodeAt(address, container()))
    gateway = meeting.wait("gateway", GatewayAt, ticket.patience, meeting.over)
    if gateway is None:
        return
    if generation > 1:
        notice = f"node {node_rank} is back, in another container. {notice}".rstrip()
    await_ready(zygote, ticket.agent.framework)
    # NCCL takes two containers on one machine for one host, where it is not told that they are not.
    own = {"NCCL_HOSTID": f"{socket.gethostname()}-{address}"}
    spec = msgspec.structs.replace(
        ticket.agent,
        node_rank=node_rank,
        gateway_host=gateway.address,
        gateway_port=gateway.node_port,
        address=address,
        cores=ticket.agent.cores or os.cpu_count() or 1,
        notice=notice,
        stages=list(stages),
    )
    # Kept containers serve one session after the other: nothing of one is left to the next.
    with (
        tempfile.TemporaryDirectory(prefix="modal-magic-", ignore_cleanup_errors=True) as folder,
        offered(ticket.volumes, folder) as more,
    ):
        zygote.tell(Take(folder, os.getcwd(), sys.path, {**os.environ, **own, **more}))
        zygote.tell(StartAgent(spec))
        try:
            ended(zygote.process)
        except BaseException as error:
            preempted = isinstance(error, KeyboardInterrupt)
            why, grace = ("preempted", GRACE_SECONDS) if preempted else ("cancelled", 0.0)
            with contextlib.suppress(SessionError, subprocess.TimeoutExpired, *TROUBLE):
                zygote.tell(EndNode(why, grace))
                if preempted:
                    meeting.leave(node_rank, generation)
                zygote.process.wait(LEAVE_SECONDS + grace)
            raise
    commit_all(ticket.volumes)  # Modal does it at the end of a container, which may be kept for another session
