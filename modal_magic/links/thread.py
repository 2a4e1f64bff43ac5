"""The thread of a kernel, or of a Jupyter server, that all its links share: sockets live and die in it."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq

from modal_magic import protocol as p
from modal_magic.links.link import Keys, connect
from modal_magic.links.waiting import READ, Waiter, readiness

__all__ = ["Link", "LinkThread"]


@dataclass(eq=False, slots=True)
class Link:
    """One client's end of a link. Its functions are called in this thread.

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


class LinkThread:
    """The one thread of a kernel that does all its input and output; sockets live and die in it.

    A class because a thread and a context must be ended. It starts at the first link and works where kernels do:
    sockets of TCP and of this process alone.
    """

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._mentions: deque[Callable[[], None]] = deque()
        self._links: set[Link] = set()
        self._waiter = Waiter()
        self._lock = threading.RLock()  # a signal handler may send while its own thread does
        self._thread: threading.Thread | None = None
        self._waker: zmq.Socket[bytes] | None = None
        self._owner = os.getpid()
        self._rung = self._ending = False

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
            alive = self._thread is not None and self._thread.is_alive()  # an interrupt may have come in its start
            context = self._context if alive and self._context is not None else self._start()
        socket = connect(context, host, port, server, keys, identity, patient=True)
        link = Link(socket, on_frames, on_silence, on_failure)

        def job() -> None:
            self._links.add(link)
            self._waiter.add(link.socket)

        self._submit(job)
        return link

    def call(self, link: Link, job: Callable[[], None], soon: bool = True) -> None:
        """Have something done in this thread, if the link is open then.

        Else than `soon` it is done within a beat, and after what is done soon: somebody waits for that.
        """
        if soon:
            self._submit(lambda: self._guarded(link, job))
        elif self._waker is not None:
            self._mentions.append(lambda: self._guarded(link, job))

    def transmit(self, link: Link, frames: list[bytes]) -> None:
        """Send a message, in this thread. It waits in the socket's queue while the other end is away."""
        if link in self._links:
            link.socket.send_multipart(frames, zmq.DONTWAIT)

    def move(self, link: Link, before: str, after: str) -> None:
        """Have a link lead to another endpoint, in this thread. What waits in the socket is lost."""
        link.socket.disconnect(before)
        link.socket.connect(after)

    def shut(self, link: Link, last: p.Message | None = None) -> None:
        """Close a link, after all else and a last word."""
        data = p.encode(last) if last is not None else None
        self._submit(lambda: self._mentions.append(lambda: self._drop(link, data)))

    def close(self) -> None:
        """End the thread and every link. Safe to call twice, and in a fork of the kernel (where it does nothing)."""
        if self._thread is None or os.getpid() != self._owner:
            return

        def job() -> None:
            self._ending = True

        self._submit(job)
        if self._thread.is_alive():
            self._thread.join(5)
        with self._lock:
            assert self._waker is not None and self._context is not None
            self._waker.close()
            self._context.destroy(linger=200)
            self._thread = self._waker = self._context = None
            self._jobs.clear()
            self._mentions.clear()

    def _submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._waker is not None:
                self._jobs.append(job)
                # Not told by the number of jobs: a signal handler that submits between these two lines would see the
                # second job and this thread no longer the first, and neither would ring.
                if not self._rung:
                    self._rung = True
                    with contextlib.suppress(zmq.Again):  # so many bells are on their way that one more is not missed
                        self._waker.send(b"", zmq.DONTWAIT)

    def _start(self) -> zmq.Context[zmq.Socket[bytes]]:
        if self._context is not None:
            self._context.destroy(linger=0)
        self._rung = self._ending = False
        self._context = context = zmq.Context()
        self._waker = context.socket(zmq.PAIR)
        self._waker.bind("inproc://jobs")
        bell: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        bell.connect("inproc://jobs")
        self._thread = threading.Thread(target=self._serve, args=(bell,), name="modal_magic links", daemon=True)
        self._thread.start()
        return context

    def _serve(self, bell: zmq.Socket[bytes]) -> None:
        self._waiter = Waiter(bell)
        next_beat = time.monotonic()
        while not self._ending:
            now = time.monotonic()
            if now >= next_beat:
                late, next_beat = now - next_beat, now + p.BEAT_SECONDS
                self._beat(now, late if late > p.BEAT_SECONDS else 0.0)
            self._waiter.wait(next_beat - time.monotonic())
            # Before the jobs are taken: what comes from now on rings again. In every turn, for an interrupt may have
            # come between this note and the bell.
            self._rung = False
            if readiness(bell) & READ:
                bell.recv()
            for jobs in (self._jobs, self._mentions):
                while jobs:
                    jobs.popleft()()
            for link in list(self._links):
                if readiness(link.socket) & READ:
                    self._guarded(link, functools.partial(self._receive, link))
        for link in list(self._links):
            self._drop(link)
        self._waiter.close()
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
            self._waiter.remove(link.socket)
            if last is not None:
                link.socket.send(last, zmq.DONTWAIT)
            link.socket.close(linger=200 if last is not None else 0)

    def _receive(self, link: Link) -> None:
        link.heard = time.monotonic()
        if link.silent:
            link.silent = False
            link.on_silence(0.0)
        for _ in range(100):
            link.on_frames(link.socket.recv_multipart(zmq.DONTWAIT))
            if link not in self._links or not readiness(link.socket) & READ:
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
            elif not readiness(link.socket) & READ:
                link.silent = True
                self._guarded(link, functools.partial(link.on_silence, silence))
