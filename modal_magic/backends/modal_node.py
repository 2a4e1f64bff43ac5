"""What runs in the containers of Modal: a node, and the gateway. Each call serves for the life of a session.

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
from collections.abc import Iterator

import modal
import msgspec

from modal_magic.backends.modal_carrier import answering
from modal_magic.backends.modal_meeting import GATEWAY, Calls, GatewayAt, Meeting, NodeAt, Ticket
from modal_magic.backends.modal_volumes import commit_all, offered
from modal_magic.backends.zygotes import Zygote, await_ready, spawn
from modal_magic.errors import SessionError
from modal_magic.protocol import Stage
from modal_magic.specs import EndNode, GatewaySpec, GatewayUp, StartAgent, Take, decode_zygote_word

__all__ = ["ColdNode", "Gateway", "Node"]

PRELOAD = "MODAL_MAGIC_PRELOAD"
"""The variable that names the modules to import before the snapshot, with spaces between them."""
LOOPBACK = "127.0.0.1"
RESTORED_SECONDS = 5.0
"""How long a zygote has to answer after a snapshot was restored."""
LEAVE_SECONDS = 8.0
"""How long a node has to end its ranks when its call is cancelled, and beyond its grace when it is preempted."""
GRACE_SECONDS = 20.0
"""How long ranks have to save what they have when their node is preempted. Modal gives a container about 30 s."""
END_SECONDS = 8.0
"""How long nodes have to end by themselves when their session has; then their calls are cancelled."""


def i6pn_address() -> str:
    """This container's address on Modal's private network. Raises OSError where it has none."""
    found = socket.getaddrinfo("i6pn.modal.local", None, socket.AF_INET6)
    return str(found[0][4][0])


def container() -> str:
    """Modal's name for this container."""
    return os.environ.get("MODAL_TASK_ID", "")


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
    def serve(self, key: str, node_rank: int | None) -> None:
        """Be a node of the session until it ends. `node_rank` is None in a cluster, where Modal has ranked nodes."""
        assert self.zygote is not None
        zygote, notice, stages = self.zygote, self.notice, self.stages
        self.zygote, self.notice, self.stages = None, "", ()
        try:
            meeting = Meeting(key)
            ticket = meeting.get("ticket", Ticket)
            if ticket is not None and not meeting.over():
                rank = modal.Cluster.from_context().container_rank() if node_rank is None else node_rank
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
        self.notice = (
            "the memory snapshot did not bring back the process that forks ranks, so nodes start as with "
            f"--snapshot off ({time.time() - began:.0f} s more)"
        )


class ColdNode(_Serving):
    """One node of a session, with `--snapshot off` or `--clustered`."""

    @modal.enter()
    def build(self) -> None:
        """All that there is to do."""
        self.make_ready()


class Gateway:
    """The gateway of a session, with the tunnel through which kernels reach it."""

    @modal.method()
    def serve(self, key: str) -> None:
        """Be the gateway of the session until it ends, then see that no node stays behind."""
        meeting = Meeting(key)
        ticket = meeting.get("ticket", Ticket)
        if ticket is None:
            return
        first = meeting.get("gateway", GatewayAt) is None  # else one was here before, and the session went with it
        try:
            if first:
                with running_gateway(meeting, ticket, i6pn_address()) as process:
                    process.wait()
        finally:
            calls = meeting.get("calls", Calls)
            meeting.end("it has ended" if first else "its gateway's container was lost")
            if calls is not None:
                end_calls(calls.nodes, END_SECONDS if first else 0.0)


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
    folder = tempfile.mkdtemp(prefix="modal-magic-")
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
    with offered(ticket.volumes, folder) as more:
        zygote.tell(Take(folder, os.getcwd(), sys.path, {**os.environ, **own, **more}))
        zygote.tell(StartAgent(spec))
        try:
            zygote.process.wait()
        except BaseException as error:
            preempted = isinstance(error, KeyboardInterrupt)
            why, grace = ("preempted", GRACE_SECONDS) if preempted else ("cancelled", 0.0)
            with contextlib.suppress(SessionError, subprocess.TimeoutExpired):
                zygote.tell(EndNode(why, grace))
                zygote.process.wait(LEAVE_SECONDS + grace)
            raise
    commit_all(ticket.volumes)  # Modal does it at the end of a container, which may be kept for another session


@contextlib.contextmanager
def own_gateway(meeting: Meeting, ticket: Ticket) -> Iterator[None]:
    """The gateway of a session without i6pn, for the time of this context: it is beside the one node."""
    if meeting.get("gateway", GatewayAt) is not None:  # it was in a container that is lost, and the session with it
        meeting.end("its container was lost")
        yield
        return
    try:
        with running_gateway(meeting, ticket, LOOPBACK) as process:
            yield
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LEAVE_SECONDS)
    finally:
        meeting.end("it has ended")


@contextlib.contextmanager
def running_gateway(meeting: Meeting, ticket: Ticket, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """The gateway's process and the ways by which clients reach it, for the time of this context."""
    meeting.arrive(GATEWAY, NodeAt(address, container()))
    # A tunnel ends at this container's loopback or at any address of it: the clients' door is on all of them.
    folder, doors = tempfile.mkdtemp(prefix="modal-magic-"), "" if address == LOOPBACK else "::"
    spec = msgspec.structs.replace(ticket.gateway, host=address, client_host=doors, folder=folder)
    process, up = spawn_gateway(spec)
    try:
        with contextlib.ExitStack() as ways:
            host, port = "", 0
            if ticket.link != "queue":
                host, port = ways.enter_context(modal.forward(up.client_port, unencrypted=True)).tcp_socket
            if ticket.link != "tunnel":
                ways.enter_context(answering(meeting.key, up.client_port))
            meeting.put("gateway", GatewayAt(address, up.node_port, host, port))
            yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def end_calls(names: list[str], seconds: float) -> None:
    """Wait until these calls have ended; those that have not after so many seconds are cancelled."""
    until = time.monotonic() + seconds
    for name in names:
        call: modal.FunctionCall[None] = modal.FunctionCall.from_id(name)
        try:
            call.get(timeout=max(0.0, until - time.monotonic()))
        except TimeoutError:
            call.cancel(terminate_containers=True)
        except modal.exception.Error:  # it has ended, though not well: its container's log has why
            continue


def spawn_gateway(spec: GatewaySpec) -> tuple[subprocess.Popen[bytes], GatewayUp]:
    """Start a gateway as a process of its own. Raises SessionError when it does not come up."""
    spec_out, spec_in = os.pipe()
    up_out, up_in = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "modal_magic.node.born", "gateway", str(spec_out), str(up_in)],
        pass_fds=[spec_out, up_in],
    )
    os.close(spec_out)
    os.close(up_in)
    with os.fdopen(spec_in, "wb") as given:
        given.write(msgspec.msgpack.encode(spec))
    with os.fdopen(up_out, "rb") as said:
        data = said.read()
    word = decode_zygote_word(data) if data else None
    if not isinstance(word, GatewayUp):
        raise SessionError(f"the gateway did not start: exit code {process.wait()}")
    return process, word
