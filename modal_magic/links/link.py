"""Links between processes: CURVE sockets, their keys and their allow-lists."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import zmq
from zmq.auth.thread import ThreadAuthenticator

from modal_magic import protocol as p

__all__ = ["Keys", "allow_only", "connect", "endpoint", "make_keys", "serve"]

BACKLOG = 1000
"""How many frames a socket queues before it pushes back."""


@dataclass(frozen=True, slots=True)
class Keys:
    """A CURVE key pair, Z85 (40 characters each). The secret half is never printed."""

    public: str
    secret: str = field(repr=False)


def make_keys() -> Keys:
    """A fresh key pair (CurveZMQ, RFC 26)."""
    public, secret = zmq.curve_keypair()
    return Keys(public.decode(), secret.decode())


def endpoint(host: str, port: int | str) -> str:
    """`tcp://host:port`, with brackets round an IPv6 address."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _prepare(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, BACKLOG)
    socket.setsockopt(zmq.RCVHWM, BACKLOG)
    socket.setsockopt(zmq.MAXMSGSIZE, p.MESSAGE_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)


def serve(context: zmq.Context[zmq.Socket[bytes]], host: str, keys: Keys, domain: str) -> tuple[zmq.Socket[bytes], int]:
    """A ROUTER bound to a free port of `host`, which admits only what the domain's allow-list names. And the port.

    It tells when a peer cannot take more (ROUTER_MANDATORY), so that nothing is dropped in silence, and lets a peer
    that comes back under its identity replace its dead connection (ROUTER_HANDOVER).
    """
    socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    _prepare(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    socket.curve_server = True
    socket.curve_secretkey = keys.secret.encode()
    socket.curve_publickey = keys.public.encode()
    socket.zap_domain = domain.encode()
    return socket, socket.bind_to_random_port(endpoint(host, "*").rsplit(":", 1)[0])


def connect(
    context: zmq.Context[zmq.Socket[bytes]],
    host: str,
    port: int,
    server: str,
    keys: Keys,
    identity: bytes,
    patient: bool,
) -> zmq.Socket[bytes]:
    """A DEALER connected to a ROUTER of `serve`, whose public key is `server`.

    A patient one queues without limit while the other end is away (what a person asked for); the other pushes back.
    """
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    _prepare(socket)
    socket.setsockopt(zmq.IDENTITY, identity)
    socket.setsockopt(zmq.SNDHWM, 0 if patient else BACKLOG)
    socket.setsockopt(zmq.RECONNECT_IVL, 50)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.curve_serverkey = server.encode()
    socket.curve_publickey = keys.public.encode()
    socket.curve_secretkey = keys.secret.encode()
    socket.connect(endpoint(host, port))
    return socket


class _AllowList:
    """Answers ZAP's question whether a key is known (pyzmq's credentials provider)."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = {key.encode() for key in keys}

    def callback(self, domain: str, key: bytes) -> bool:
        return key in self._keys


def allow_only(context: zmq.Context[zmq.Socket[bytes]], domains: dict[str, Collection[str]]) -> ThreadAuthenticator:
    """Start the ZAP handler: in each domain only these public keys may connect. Without one CURVE admits any key.

    Stop it before the context is ended.
    """
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    for domain, keys in domains.items():
        authenticator.configure_curve_callback(domain, credentials_provider=_AllowList(keys))
    return authenticator
