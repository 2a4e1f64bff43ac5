"""A worker alone with what its agent would say to it, over its real sockets."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest

from modal_magic import protocol as p
from modal_magic.frameworks import sockets
from modal_magic.frameworks.sockets import SocketBook
from modal_magic.node.channel import Channel
from modal_magic.specs import WorkerSpec

PLACE = p.Place(0, {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, "cpu")
SPEC = WorkerSpec("alone", PLACE, 1, None, "none")
BIRTH = """
import os, socket, sys
import msgspec
from modal_magic.node.worker import run_worker
from modal_magic.specs import WorkerSpec
control, lifeline = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
spec = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=WorkerSpec)
run_worker(spec, control, lifeline, os.dup(1), os.dup(2))
"""


@contextmanager
def worker(code: int = 0) -> Iterator[Channel]:
    """The agent's end of a worker's channel. The worker is gone after it, and has ended with this code."""
    control, its_control = socket.socketpair()
    lifeline, its_lifeline = socket.socketpair()
    numbers = [its_control.fileno(), its_lifeline.fileno()]
    born = subprocess.Popen(
        [sys.executable, "-c", BIRTH, *map(str, numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=numbers,
        start_new_session=True,
    )
    with born, control, lifeline, its_control, its_lifeline:
        its_control.close()
        its_lifeline.close()
        assert born.stdin is not None
        born.stdin.write(msgspec.msgpack.encode(SPEC))
        born.stdin.close()
        yield Channel(control)
        with contextlib.suppress(BrokenPipeError):
            Channel(control).send(p.Exit())
        assert born.wait(20) == code


def until(channel: Channel, *kinds: type[p.Message]) -> p.Message:
    """The first message of one of these kinds that the worker sends."""
    while (found := channel.receive()) is not None:
        for event in map(p.decode_event, found):
            if isinstance(event, kinds):
                return event
    raise AssertionError(f"the worker ended without {kinds}")


def test_an_interrupt_of_one_attempt_does_not_end_the_next() -> None:
    with worker() as channel:
        until(channel, p.Grouped)
        channel.send(p.Execute("r", "kept = 1", 1, 1))
        until(channel, p.Finished)
        channel.send(p.Interrupt("r"))  # it comes when the attempt is over, and its agent has not heard of that
        channel.send(p.Execute("r", "assert kept == 1; 1 / 0", 1, 1, 2))
        ended = until(channel, p.Finished, p.Interrupted, p.Failed)
        assert isinstance(ended, p.Failed) and ended.error.name == "ZeroDivisionError"


def test_a_rank_that_cannot_be_spoken_to_any_more_ends() -> None:
    with worker(code=70) as channel:
        until(channel, p.Grouped)
        channel.socket.sendall((3).to_bytes(4, "little") + b"\xc1\xc1\xc1")
        while channel.receive() is not None:
            pass


def test_connections_are_cut_by_one_thread_while_another_ends_its_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    book = SocketBook(before=set())

    def meanwhile() -> dict[str, int]:
        book.before = None
        return {}

    monkeypatch.setattr(sockets, "_open_sockets", meanwhile)
    book.shut_down()
