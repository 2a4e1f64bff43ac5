"""What runs in the container of a session's gateway on Modal; without i6pn that is the container of its one node."""

from __future__ import annotations

import contextlib
import os
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
from modal_magic.backends.modal_trouble import TROUBLE
from modal_magic.errors import SessionError
from modal_magic.specs import GatewaySpec, GatewayUp, decode_zygote_word
from modal_magic.waits import ended

__all__ = ["LOOPBACK", "Gateway", "container", "end_calls", "i6pn_address", "own_gateway"]

LOOPBACK = "127.0.0.1"
END_SECONDS = 8.0
"""How long nodes have to end by themselves when their session has; then their calls are cancelled."""
LEAVE_SECONDS = 8.0
"""How long a gateway has to end when its one node has."""


def i6pn_address() -> str:
    """This container's address on Modal's private network. Raises OSError where it has none."""
    found = socket.getaddrinfo("i6pn.modal.local", None, socket.AF_INET6)
    return str(found[0][4][0])


def container() -> str:
    """Modal's name for this container."""
    return os.environ.get("MODAL_TASK_ID", "")


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
                    ended(process)
        finally:
            calls = meeting.get("calls", Calls)
            meeting.end("it has ended" if first else "its gateway's container was lost")
            if calls is not None:
                end_calls(calls.nodes, END_SECONDS if first else 0.0)


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
    doors = "" if address == LOOPBACK else "::"
    with tempfile.TemporaryDirectory(prefix="modal-magic-", ignore_cleanup_errors=True) as folder:
        process, up = spawn_gateway(
            msgspec.structs.replace(ticket.gateway, host=address, client_host=doors, folder=folder)
        )
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
        except TROUBLE:  # it has ended, though not well: its container's log has why
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
