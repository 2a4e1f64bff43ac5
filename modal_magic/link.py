"""Links between processes: CURVE sockets with their allow-lists, and the loop thread that a kernel's links share."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from modal_magic import protocol as p

__all__ = ["Keys", "Link", "Loop", "allow_only", "connect", "endpoint", "make_keys", "poll", "readiness", "serve"]

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


def poll(poller: zmq.Poller, seconds: float) -> dict[Any, int]:
    """What of the poller is ready within so many seconds, by socket or descriptor.

    ZeroMQ waits whole milliseconds: a part of one counts as one, for rounded down it would be a busy loop.
    """
    return dict(poller.poll(max(0, math.ceil(seconds * 1000))))


def readiness(socket: zmq.Socket[bytes]) -> int:
    """What can be done with a socket at once: `zmq.POLLIN`, `zmq.POLLOUT` or both, as bits."""
    return int(socket.get(zmq.EVENTS))


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


@dataclass(eq=False, slots=True)
class Link:
    """One client's end of a link. Its functions are called in the loop's thread.

    `on_frames` takes a message. `on_silence` is told at every beat for how many seconds the other end has said nothing,
    once that is more than `SILENCE_SECONDS`; it is told 0.0 when the other end speaks again. `on_failure` is told what
    one of the two raised: the link is closed then, and no other link suffers.
    """

    socket: zmq.Socket[bytes]
    on_frames: Callable[[list[bytes]], None]
    on_silence: Callable[[float], None]
    on_failure: Callable[[Exception], None]
    heard: float = field(default_factory=time.monotonic)
    silent: bool = False


class Loop:
    """The one thread of a kernel that does all its input and output; sockets live and die in it.

    A class because a thread and a context must be ended. It starts at the first link and works where kernels do:
    sockets of TCP and of this process alone.
    """

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._links: set[Link] = set()
        self._poller = zmq.Poller()
        self._lock = threading.RLock()  # a signal handler may send while its own thread does
        self._thread: threading.Thread | None = None
        self._waker: zmq.Socket[bytes] | None = None
        self._owner = os.getpid()
        self._ending = False

    def open(
        self,
        host: str,
        port: int,
        server: str,
        keys: Keys,
        identity: bytes,
        on_frames: Callable[[list[bytes]], None],
        on_silence: Callable[[float], None],
        on_failure: Callable[[Exception], None],
    ) -> Link:
        """Connect to a gateway. Returns at once; that nobody answers shows as silence."""
        with self._lock:
            context = self._context or self._start()
        socket = connect(context, host, port, server, keys, identity, patient=True)
        link = Link(socket, on_frames, on_silence, on_failure)

        def job() -> None:
            self._links.add(link)
            self._poller.register(link.socket, zmq.POLLIN)

        self._submit(job)
        return link

    def call(self, link: Link, job: Callable[[], None]) -> None:
        """Have something done in the loop's thread, if the link is open then."""
        self._submit(lambda: self._guarded(link, job))

    def transmit(self, link: Link, frames: list[bytes]) -> None:
        """Send a message, in the loop's thread. It waits in the socket's queue while the other end is away."""
        if link in self._links:
            link.socket.send_multipart(frames, zmq.DONTWAIT)

    def shut(self, link: Link, last: p.Message | None = None) -> None:
        """Close a link, after a last word."""
        data = p.encode(last) if last is not None else None
        self._submit(lambda: self._drop(link, data))

    def close(self) -> None:
        """End the thread and every link. Safe to call twice, and in a fork of the kernel (where it does nothing)."""
        if self._thread is None or os.getpid() != self._owner:
            return

        def job() -> None:
            self._ending = True

        self._submit(job)
        self._thread.join(5)
        with self._lock:
            assert self._waker is not None and self._context is not None
            self._waker.close()
            self._context.destroy(linger=200)
            self._thread = self._waker = self._context = None
            self._jobs.clear()

    def _submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._waker is not None:
                self._jobs.append(job)
                if len(self._jobs) == 1:
                    with contextlib.suppress(zmq.Again):  # so many bells are on their way that one more is not missed
                        self._waker.send(b"", zmq.DONTWAIT)

    def _start(self) -> zmq.Context[zmq.Socket[bytes]]:
        self._ending = False
        self._context = context = zmq.Context()
        self._waker = context.socket(zmq.PAIR)
        self._waker.bind("inproc://jobs")
        bell: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        bell.connect("inproc://jobs")
        self._thread = threading.Thread(target=self._serve, args=(bell,), name="modal_magic links", daemon=True)
        self._thread.start()
        return context

    def _serve(self, bell: zmq.Socket[bytes]) -> None:
        self._poller.register(bell, zmq.POLLIN)
        next_beat = time.monotonic()
        while not self._ending:
            now = time.monotonic()
            if now >= next_beat:
                late, next_beat = now - next_beat, now + p.BEAT_SECONDS
                self._beat(now, late if late > p.BEAT_SECONDS else 0.0)
            ready = poll(self._poller, next_beat - time.monotonic())
            if ready.pop(bell, None):
                bell.recv()
                while self._jobs:
                    self._jobs.popleft()()
            for link in [link for link in self._links if link.socket in ready]:
                self._guarded(link, lambda: self._receive(link))  # noqa: B023 - called at once
        for link in list(self._links):
            self._drop(link)
        self._poller.unregister(bell)
        bell.close()

    def _guarded(self, link: Link, job: Callable[[], None]) -> None:
        """Do something for a link. What goes wrong costs this link, and no other."""
        if link not in self._links:
            return
        try:
            job()
        except Exception as error:
            self._drop(link)
            link.on_failure(error)

    def _drop(self, link: Link, last: bytes | None = None) -> None:
        if link in self._links:
            self._links.discard(link)
            self._poller.unregister(link.socket)
            if last is not None:
                link.socket.send(last, zmq.DONTWAIT)
            link.socket.close(linger=200 if last is not None else 0)

    def _receive(self, link: Link) -> None:
        link.heard = time.monotonic()
        if link.silent:
            link.silent = False
            link.on_silence(0.0)
        for _ in range(100):
            try:
                frames = link.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            link.on_frames(frames)
            if link not in self._links:
                return

    def _beat(self, now: float, late: float) -> None:
        """Say on each link that this end lives, and see whether the other does. For `late` seconds nobody listened."""
        beat = p.encode(p.Beat())
        for link in list(self._links):
            link.heard += late
            silence = now - link.heard
            if silence <= p.SILENCE_SECONDS:
                link.socket.send(beat, zmq.DONTWAIT)
            # Only silence with nothing left to read is silence: a busy kernel may itself have been late.
            elif not readiness(link.socket) & zmq.POLLIN:
                link.silent = True
                self._guarded(link, functools.partial(link.on_silence, silence))
