"""A worker alone with what its agent would say to it, over its real sockets."""

from __future__ import annotations

import contextlib
import os
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
from modal_magic.frameworks.store import open_store
from modal_magic.node.channel import Channel
from modal_magic.specs import WorkerSpec

PLACE = p.Place(0, {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, "cpu")
SPEC = WorkerSpec("alone", PLACE, 1, None, "none")
BIRTH = """
import os, socket, sys
import msgspec
from modal_magic.node.worker import run_worker
from modal_magic.specs import WorkerSpec
lines = [socket.socket(fileno=int(number)) for number in sys.argv[1:]]
spec = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=WorkerSpec)
run_worker(spec, *lines, os.dup(1), os.dup(2), os.memfd_create("report"))
os._exit(0)
"""


@contextmanager
def worker(code: int = 0, spec: WorkerSpec = SPEC) -> Iterator[tuple[Channel, Channel]]:
    """The agent's ends of a worker's lines: what is said and heard at any time, and what is to be done.

    The worker is gone after it, and has ended with this code.
    """
    control, its_control = socket.socketpair()
    tasks, its_tasks = socket.socketpair()
    lifeline, its_lifeline = socket.socketpair()
    theirs = its_control, its_tasks, its_lifeline
    numbers = [one.fileno() for one in theirs]
    born = subprocess.Popen(
        [sys.executable, "-c", BIRTH, *map(str, numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=numbers,
        start_new_session=True,
    )
    with born, control, tasks, lifeline:
        for one in theirs:
            one.close()
        assert born.stdin is not None
        born.stdin.write(msgspec.msgpack.encode(spec))
        born.stdin.close()
        yield Channel(control), Channel(tasks)
        with contextlib.suppress(BrokenPipeError):
            for line in (control, tasks):
                Channel(line).send(p.Exit())
        assert born.wait(20) == code


def until(channel: Channel, *kinds: type[p.Message]) -> p.Message:
    """The first message of one of these kinds that the worker sends."""
    while (found := channel.receive()) is not None:
        for event in map(p.decode_event, found):
            if isinstance(event, kinds):
                return event
    raise AssertionError(f"the worker ended without {kinds}")


def test_an_interrupt_of_one_attempt_does_not_end_the_next() -> None:
    with worker() as (channel, tasks):
        until(channel, p.Grouped)
        tasks.send(p.Execute("r", "kept = 1", 1, 1))
        until(channel, p.Finished)
        channel.send(p.Interrupt("r", 1))  # it comes when the attempt is over, and its agent has not heard of that
        tasks.send(p.Execute("r", "assert kept == 1; 1 / 0", 1, 1, 2))
        ended = until(channel, p.Finished, p.Interrupted, p.Failed)
        assert isinstance(ended, p.Failed) and ended.error.name == "ZeroDivisionError"


def test_an_interrupt_that_comes_before_its_cell_keeps_that_from_beginning() -> None:
    with worker() as (channel, tasks):
        until(channel, p.Grouped)
        channel.send(p.Interrupt("r", 2))
        channel.send(p.TakeStack("heard", 0))
        until(channel, p.StackTaken)
        tasks.send(p.Execute("r", "1 / 0", 1, 1, 2))
        ended = until(channel, p.Finished, p.Interrupted, p.Failed)
        assert isinstance(ended, p.Interrupted) and ended.where == "before it began"


def test_what_a_cell_forks_and_lets_run_out_of_it_takes_no_cells() -> None:
    with worker() as (channel, tasks):
        until(channel, p.Grouped)
        tasks.send(p.Execute("a", "import os; parent = os.getpid(); child = os.fork()", 1, 1))
        until(channel, p.Finished)
        tasks.send(p.Execute("b", "import os; assert os.getpid() == parent; assert os.waitpid(child, 0)[1] == 0", 1, 1))
        ended = until(channel, p.Finished, p.Interrupted, p.Failed)
        assert isinstance(ended, p.Finished) and ended.run == "b"


def test_a_rank_that_cannot_be_spoken_to_any_more_ends() -> None:
    with worker(code=70) as (channel, _):
        until(channel, p.Grouped)
        channel.socket.sendall((3).to_bytes(4, "little") + b"\xc1\xc1\xc1")
        while channel.receive() is not None:
            pass


SHOWN = """
import numpy
from IPython.display import display
class Markup(str): pass
class Shown:
    def _repr_html_(self): return Markup("<b>bold</b>")
    def _repr_png_(self): return b"png", {"width": numpy.int64(3), "scale": numpy.float32(0.5)}
    def _repr_json_(self): return {"steps": numpy.arange(2), 1: range(2), "done": numpy.bool_(True)}
display(Shown(), display_id=7)
"""


def test_what_is_displayed_may_be_made_of_numpy_s_numbers_and_of_a_library_s_own_strings() -> None:
    with worker() as (channel, tasks):
        until(channel, p.Grouped)
        tasks.send(p.Execute("r", SHOWN, 1, 1))
        shown = until(channel, p.Display, p.Failed)
        assert isinstance(shown, p.Display), shown
        channel.send(p.Taken())
        assert shown.data["text/html"] == "<b>bold</b>" and shown.data["image/png"] == "cG5n"
        assert shown.data["application/json"] == {"steps": [0, 1], 1: [0, 1], "done": True}
        assert (shown.metadata["image/png"], shown.display_id) == ({"width": 3, "scale": 0.5}, "7")
        until(channel, p.Finished)


def test_a_rank_that_waits_for_its_group_ends_when_it_is_told_to() -> None:
    with open_store("127.0.0.1", "alone") as store:
        place = p.Place(0, {**PLACE.environment, "WORLD_SIZE": "2"}, "cpu")
        with worker(spec=WorkerSpec("alone", place, 1, store, "torch")) as (channel, _):
            until(channel, p.Launched)


def test_a_number_that_has_another_owner_by_now_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = socket.socketpair()
    with here, there, open(os.devnull) as file:
        stale = {"socket:[1]": here.fileno(), "socket:[2]": file.fileno()}
        monkeypatch.setattr(sockets, "_open_sockets", lambda: stale)
        before = len(os.listdir("/proc/self/fd"))
        SocketBook(inodes=set(stale)).shut_down()
        assert len(os.listdir("/proc/self/fd")) == before
        here.sendall(b"whole")
        assert there.recv(5) == b"whole"


def test_a_recording_that_an_interrupt_has_left_open_takes_nothing_of_what_is_opened_later() -> None:
    book = SocketBook()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        book.recording().__enter__()  # an interrupt keeps it from its end
        with socket.create_connection(listener.getsockname()) as theirs:
            book.resume()
            with socket.create_connection(listener.getsockname()) as own:
                book.shut_down()
                with pytest.raises(BrokenPipeError):
                    theirs.sendall(b"cut")
                own.sendall(b"whole")


def test_who_listens_for_a_group_that_is_cut_or_has_failed_hears_of_nobody_and_goes_on_listening() -> None:
    """gloo crashes when somebody comes late to a group that is being let go of."""
    book = SocketBook()
    with contextlib.ExitStack() as stack:
        with book.recording():
            cut = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        addresses = [cut.getsockname()]
        with contextlib.suppress(RuntimeError), book.recording():
            failed = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            addresses.append(failed.getsockname())
            raise RuntimeError
        with contextlib.closing(socket.create_connection(addresses[0])):  # nobody has taken it yet
            book.shut_down()
        for listening, address in zip((cut, failed), addresses, strict=True):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            listening.setblocking(False)
            with pytest.raises(BlockingIOError):
                listening.accept()


def test_connections_are_cut_by_one_thread_while_another_ends_its_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    book = SocketBook(before=set())

    def meanwhile() -> dict[str, int]:
        book.before = None
        return {}

    monkeypatch.setattr(sockets, "_open_sockets", meanwhile)
    book.shut_down()
