"""The process of a gateway: its sockets, its clock and its one loop."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from modal_magic import protocol as p
from modal_magic.gateway import Gateway
from modal_magic.links.link import Keys, allow_only, serve
from modal_magic.links.waiting import READ, Waiter, readiness
from modal_magic.specs import GatewaySpec, GatewayUp

__all__ = ["run_gateway"]

LINGER_MILLISECONDS = 2000
"""How long what clients have still to be sent is kept when the gateway ends."""
TURN_MESSAGES = 200
"""How many messages are taken from a door before the other one, and the clock, are looked at again."""


@dataclass(frozen=True, slots=True)
class SocketDoor:
    """A door of the gateway: a ROUTER."""

    socket: zmq.Socket[bytes]

    def send(self, identity: bytes, *frames: bytes) -> bool:
        """See `Door`."""
        try:
            self.socket.send_multipart([identity, *frames], zmq.DONTWAIT)
        except zmq.ZMQError:  # EAGAIN: its queue is full; EHOSTUNREACH: it is away
            return False
        return True

    def waiting(self) -> bool:
        """See `Door`."""
        return bool(readiness(self.socket) & READ)

    def drain(self, take: Callable[[bytes, list[bytes]], None]) -> None:
        """Hand over what has come. Noise costs its peer the message, and the session nothing."""
        for _ in range(TURN_MESSAGES):
            if not self.waiting():  # ahead of zmq.Again, which costs more than all else that is done with a message
                return
            try:
                identity, *frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            with contextlib.suppress(*p.NOISE):
                take(identity, frames)


def run_gateway(spec: GatewaySpec, store: p.Store | None, announce: Callable[[GatewayUp], None]) -> None:
    """Be the gateway of a session until it is closed, then remove the session's folder.

    `store` says where the process groups' store listens (None: this session has no process group). `announce` is called
    once, when clients and nodes can connect.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    authenticator = allow_only(context, {"clients": [spec.client_key], "nodes": [spec.node_key]})
    keys = Keys(spec.public_key, spec.secret_key)
    client_socket, client_port = serve(context, spec.client_host or spec.host, keys, "clients")
    node_socket, node_port = serve(context, spec.host, keys, "nodes")
    clients, nodes = SocketDoor(client_socket), SocketDoor(node_socket)
    gateway = Gateway(spec, store, clients, nodes, time.monotonic)
    signal.signal(signal.SIGTERM, lambda *_: setattr(gateway, "ended", "its gateway was told to end"))
    announce(GatewayUp(os.getpid(), client_port, node_port))
    waiter = Waiter(client_socket, node_socket)
    reason = "its gateway failed"
    try:
        while gateway.ended is None:
            waiter.wait(gateway.due() - time.monotonic())
            nodes.drain(gateway.from_node)
            clients.drain(gateway.from_client)
            gateway.turn()
        reason = gateway.ended
    finally:
        waiter.close()
        gateway.close(reason)
        client_socket.close(linger=LINGER_MILLISECONDS)
        node_socket.close(linger=500)
        authenticator.stop()
        context.term()
    shutil.rmtree(spec.folder, ignore_errors=True)  # after a failure it stays, with what was written to stderr
