"""The process of a gateway: its sockets, its clock and its one loop."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable

import zmq

from modal_magic import protocol as p
from modal_magic.gateway import Gateway
from modal_magic.gateway.doors import NodeDoor, SocketDoor
from modal_magic.links.link import Keys, allow_only, serve
from modal_magic.links.waiting import Waiter
from modal_magic.specs import GatewaySpec, GatewayUp

__all__ = ["run_gateway"]

LINGER_MILLISECONDS = 2000
"""How long what clients have still to be sent is kept when the gateway ends."""


def run_gateway(
    spec: GatewaySpec, store: p.Store | None, announce: Callable[[GatewayUp], None], bell: socket.socket | None = None
) -> None:
    """Be the gateway of a session until it is closed, then remove the session's folder.

    `store` says where the process groups' store listens (None: this session has no process group). `announce` is called
    once, when clients and nodes can connect. `bell` brings the lines to those agents that one zygote makes with it.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    authenticator = allow_only(context, {"clients": [spec.client_key], "nodes": [spec.node_key]})
    keys = Keys(spec.public_key, spec.secret_key)
    client_socket, client_port = serve(context, spec.client_host or spec.host, keys, "clients")
    node_socket, node_port = serve(context, spec.host, keys, "nodes")
    clients, nodes = SocketDoor(client_socket), NodeDoor(SocketDoor(node_socket), bell)
    gateway = Gateway(spec, store, clients, nodes, time.monotonic)
    signal.signal(signal.SIGTERM, lambda *_: setattr(gateway, "ended", "its gateway was told to end"))
    announce(GatewayUp(os.getpid(), client_port, node_port))
    waiter = Waiter(client_socket, node_socket)
    reason = "its gateway failed"
    try:
        while gateway.ended is None:
            waiter.watch(nodes.wanted())
            ready = waiter.wait(gateway.due() - time.monotonic())
            nodes.drain(gateway.from_node, ready)
            clients.drain(gateway.from_client)
            gateway.turn()
        reason = gateway.ended
    finally:
        waiter.close()
        gateway.close(reason)
        client_socket.close(linger=LINGER_MILLISECONDS)
        node_socket.close(linger=500)
        nodes.close()
        authenticator.stop()
        context.term()
    shutil.rmtree(spec.folder, ignore_errors=True)  # after a failure it stays, with what was written to stderr
