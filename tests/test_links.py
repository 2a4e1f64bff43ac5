"""The doors of a session: who gets in, and what noise does to it (real gateway, real sockets)."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import stat
import threading
from collections.abc import Callable

import psutil
import pytest
import zmq

from modal_magic import Session, registry
from modal_magic import protocol as p
from modal_magic.errors import RankFailed, SessionClosed, UsageError
from modal_magic.links.delivery import Delivery
from modal_magic.links.link import Keys, connect, make_keys
from modal_magic.links.thread import Link, LinkThread
from modal_magic.sessions.resources import Resources
from modal_magic.sessions.run import Run

EVERY = range(4)


@pytest.fixture(scope="module")
def open_session(resources: Resources) -> Session:
    with Session(resources=resources, replicas=4, backend="local", framework="none") as session:
        yield session.ready()  # type: ignore[misc]


def dealer(context: zmq.Context[zmq.Socket[bytes]], session: Session, keys: Keys) -> zmq.Socket[bytes]:
    """A client's socket of our own making."""
    found = session.connection
    return connect(context, found.host, found.port, found.gateway_key, keys, b"intruder", patient=True)


def works(session: Session) -> bool:
    """Whether the session still runs a cell on every rank."""
    run = session.run("rank * 2").wait(30)
    return [run.ranks[rank].result for rank in EVERY] == ["0", "2", "4", "6"]


def test_the_connection_file_is_for_its_owner_alone(open_session: Session) -> None:
    path = registry.folder_of(open_session.name) / "connection.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_client_without_the_key_is_not_admitted(open_session: Session) -> None:
    with zmq.Context() as context, dealer(context, open_session, make_keys()) as stranger:
        stranger.send(p.encode(p.Attach(p.VERSION, "stranger", None)))
        stranger.send(p.encode(p.Run(p.Execute("x", "import os; os._exit(1)", 1, 1), None, None)))
        assert works(open_session)
        assert not stranger.poll(500)


def test_a_plain_socket_gets_nothing(open_session: Session) -> None:
    found = open_session.connection
    with socket.create_connection((found.host, found.port), timeout=5) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        assert works(open_session)


def test_noise_from_an_admitted_client_is_ignored(open_session: Session) -> None:
    noise = random.Random(2)
    found = open_session.connection
    samples = [
        p.encode(p.Run(p.Execute("x", "import os; os._exit(1)", 1, 1), None, None)),
        p.encode(p.Restart("r", [99])),
        p.encode(p.AskLog("r", None, [1], -5)),
    ]
    with (
        zmq.Context() as context,
        dealer(context, open_session, Keys(found.public_key, found.secret_key)) as noisy,
    ):
        for _ in range(500):
            data = bytearray(noise.choice(samples))
            for _ in range(noise.randrange(1, 6)):
                data[noise.randrange(len(data))] = noise.randrange(256)
            noisy.send(bytes(data) if noise.random() < 0.5 else noise.randbytes(noise.randrange(200)))
            if noise.random() < 0.1:
                noisy.send_multipart([b"R", bytes(data), b""])
        assert works(open_session)
        while noisy.poll(200):  # all that it hears is that it must attach first
            reply = p.decode_reply(noisy.recv())
            assert isinstance(reply, p.Refused) and reply.reason == "attach first"


def test_a_client_of_another_protocol_is_told_so(open_session: Session) -> None:
    found = open_session.connection
    with zmq.Context() as context, dealer(context, open_session, Keys(found.public_key, found.secret_key)) as old:
        old.send(p.encode(p.Attach(p.VERSION + 1, "old", 0)))
        assert old.poll(5000)
        reply = p.decode_reply(old.recv())
        assert isinstance(reply, p.Refused) and "restart the session" in reply.reason


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda session: session.run("1", ranks="0"), "ranks='0' names no ranks: write numbers, as in ranks=[0, 2]"),
        (lambda session: session.restart([0.5]), "ranks=[0.5] names no ranks: write numbers, as in ranks=[0, 2]"),
        (lambda session: session.logs(ranks=["x"]), "ranks=['x'] names no ranks: write numbers, as in ranks=[0, 2]"),
        (lambda session: session.set_limits(lease="soon"), 'Session.set_limits: lease="soon": write a time'),
        (lambda session: session.set_limits(lease=None), "Session.set_limits: lease=null: write a time"),
        (
            lambda session: session.stacks(depth="deep"),
            "the session cannot be asked for that: Expected `int`, got `str`",
        ),
        (
            lambda session: session.run("1", cell=object()),
            "the session cannot be asked for that: Encoding objects of type",
        ),
        (lambda session: session.run("1", first_line=2**70), "the session cannot be asked for that: "),
    ],
)
def test_a_request_that_cannot_be_said_is_refused_and_the_next_one_is_taken(
    open_session: Session, ask: Callable[[Session], object], told: str
) -> None:
    with pytest.raises(UsageError) as refused:
        ask(open_session)
    assert str(refused.value).startswith(told)
    assert open_session.idle
    assert list(open_session.run("rank", ranks=[Index(1)]).wait(10).result) == [1]


class Index:
    """A number as numpy and torch have them."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_a_run_that_is_asked_for_as_its_session_ends_is_over_at_once(
    open_session: Session, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session.attach(open_session.name, resources)
    begin = session._runs.begin

    def late(run: Run) -> None:  # what the thread of the links does between the two looks of this one
        session.detach("in time")
        begin(run)

    monkeypatch.setattr(session._runs, "begin", late)
    with pytest.raises(SessionClosed, match="let go of session"):
        session.run("1").wait(10)
    with monkeypatch.context() as patch:
        patch.setattr(session, "check_open", lambda: None)
        with pytest.raises(SessionClosed, match="let go of session"):
            session.status()


def test_an_interrupt_as_a_run_is_asked_for_does_not_leave_it_behind(
    open_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = open_session._client.ask

    def interrupted(request: p.Numbered) -> None:
        monkeypatch.undo()
        ask(request)
        raise KeyboardInterrupt

    monkeypatch.setattr(open_session._client, "ask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_session.run("import time; time.sleep(1000)")
    assert open_session.idle
    assert open_session.run("rank").wait(10).ranks[1].result == "1"


def test_a_second_client_sees_what_was_printed_before_it_came(open_session: Session, resources: Resources) -> None:
    open_session.run("print('early', rank)").wait(30)
    second = Session.attach(open_session.name, resources)
    try:
        assert [text for _, _, text in sorted(second.logs())] == [f"early {rank}" for rank in EVERY]
        assert second.status().clients == 2
        assert works(second)
    finally:
        second.detach()
    assert works(open_session)


# ---- hostile input ---------------------------------------------------------------------------------------------------


def admitted(context: zmq.Context[zmq.Socket[bytes]], session: Session, name: str) -> zmq.Socket[bytes]:
    """A client's socket of our own making that has the key and is attached."""
    found = session.connection
    keys = Keys(found.public_key, found.secret_key)
    made = connect(context, found.host, found.port, found.gateway_key, keys, name.encode(), patient=True)
    made.send(p.encode(p.Attach(p.VERSION, name, None)))
    assert made.poll(5000)
    return made


def heard(dealer: zmq.Socket[bytes], kind: type[p.Message]) -> p.Message:
    """The next message of a kind that comes."""
    while True:
        assert dealer.poll(10_000), f"no {kind.__name__} came"
        frames = dealer.recv_multipart()
        if len(frames) == 1 and isinstance(reply := p.decode_reply(frames[0]), kind):
            return reply


def test_requests_that_are_replayed_and_reordered_are_carried_out_once_in_order(open_session: Session) -> None:
    open_session.run("order = []").wait(30)
    chance = random.Random(5)
    frames = [
        p.numbered(number, p.Run(p.Execute(f"replay-{number}", f"order.append({number})", 0, 1), None, None))
        for number in range(1, 11)
    ]
    with zmq.Context() as context, admitted(context, open_session, "replayer") as dealer:
        for _ in range(60):
            dealer.send_multipart(chance.choice(frames))
        for _ in range(2):
            for each in frames:
                dealer.send_multipart(each)
        dealer.send_multipart(p.numbered(11, p.AskStatus("all there")))
        heard(dealer, p.Status)
        run = open_session.run("order").wait(30)
        assert {run.ranks[rank].result for rank in EVERY} == {str(list(range(1, 11)))}
        dealer.send(p.encode(p.Detach()))


def test_a_request_without_its_number_or_of_one_that_left_is_not_carried_out(open_session: Session) -> None:
    deadly = p.Run(p.Execute("deadly", "import os; os._exit(1)", 0, 1), None, None)
    with zmq.Context() as context, admitted(context, open_session, "left") as dealer:
        dealer.send(p.encode(deadly))
        dealer.send_multipart([b"1", p.encode(deadly)])
        dealer.send_multipart([b"", b"", p.encode(deadly)])
        dealer.send_multipart(p.numbered(2**64 - 1, deadly))
        dealer.send(p.encode(p.Detach()))
        dealer.send_multipart(p.numbered(1, deadly))
        heard(dealer, p.Refused)
        assert works(open_session)


def test_mutated_messages_of_an_attached_client_change_nothing(open_session: Session) -> None:
    noise = random.Random(7)
    harmless = [  # a mutated request is one that its sender may make: none of these may stop the session by right
        p.Beat(),
        p.Shown("nothing", 5, [(0, "stdout", "text")]),
        p.AskLog("r", None, [1], -5),
        p.AskStack("r", 3),
        p.InterruptRun("nothing"),
        p.Restart("r", [99]),
        p.Attach(p.VERSION, "mutant", -3, 2**63),
        p.Run(p.Execute("mutant", "", -1, -1), [7, -7], -1),
    ]
    with zmq.Context() as context, admitted(context, open_session, "mutant") as dealer:
        for number in range(2000):
            data = bytearray(p.encode(noise.choice(harmless)))
            for _ in range(noise.randrange(4)):
                data[noise.randrange(len(data))] = noise.randrange(256)
            head = [noise.randbytes(noise.randrange(10))] if noise.random() < 0.3 else []
            count = [number.to_bytes(8, "big")] if noise.random() < 0.5 else []
            dealer.send_multipart([*head, *count, bytes(data)])
        assert works(open_session)
    assert works(open_session)


def test_a_thousand_connections_leave_the_session_at_work(open_session: Session) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    found = open_session.connection
    plain = [socket.create_connection((found.host, found.port), timeout=5) for _ in range(1000)]
    try:
        assert works(open_session)
        for one in plain[::2]:
            one.close()
        with zmq.Context() as context:
            strangers = [dealer(context, open_session, make_keys()) for _ in range(20)]
            for stranger in strangers:
                stranger.send(p.encode(p.Attach(p.VERSION, "stranger", None)))
            assert works(open_session)
            assert open_session.status().clients == 1
            for stranger in strangers:
                stranger.close()
        with contextlib.closing(Resources()) as others:
            assert works(Session.attach(open_session.name, others))  # there is still room for one who may come in
    finally:
        for one in plain:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_rank_that_writes_noise_to_its_agent_costs_only_itself(open_session: Session) -> None:
    with pytest.raises(RankFailed, match="rank 1"):
        open_session.run(
            "import os, random, socket, stat\n"
            "if rank == 1:\n"
            "    for name in os.listdir('/proc/self/fd'):\n"
            "        try:\n"
            "            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):\n"
            "                os.write(int(name), random.Random(3).randbytes(100_000))\n"
            "        except OSError:\n"
            "            pass\n"
            "import time; time.sleep(20)"
        ).wait(60)
    assert works(open_session)


def test_a_busy_loop_holds_up_nobody_who_has_much_for_it_to_do() -> None:
    links, keys = LinkThread(), make_keys()
    link = links.open("127.0.0.1", 1, keys.public, keys, b"x", lambda _: None, lambda _: None, lambda _: None)
    held, go, done = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        held.set()
        go.wait(10)
        links.call(link, done.set)

    links.call(link, slow)
    assert held.wait(10)
    many = threading.Thread(target=lambda: [links.call(link, int) for _ in range(5000)], daemon=True)
    many.start()
    many.join(10)
    assert not many.is_alive()
    go.set()
    assert done.wait(10)
    links.close()


def test_a_signal_handler_may_give_the_loop_work_at_any_moment() -> None:
    loop, keys = LinkThread(), make_keys()
    link = loop.open("127.0.0.1", 1, keys.public, keys, b"x", lambda _: None, lambda _: None, lambda _: None)
    asked, done = 0, threading.Semaphore(0)

    def ask(*_: object) -> None:
        nonlocal asked
        asked += 1
        loop.call(link, done.release)

    before = signal.signal(signal.SIGALRM, ask)
    signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
    try:
        for _ in range(10_000):
            loop.call(link, done.release)
            assert done.acquire(timeout=10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert asked and all(done.acquire(timeout=10) for _ in range(asked))
    loop.close()


def open_link(loop: LinkThread) -> Link:
    """A link to nobody."""
    keys = make_keys()
    return loop.open("127.0.0.1", 1, keys.public, keys, b"x", lambda _: None, lambda _: None, lambda _: None)


class Bell:
    """The bell of a loop, which counts how often it is rung; the first time an interrupt comes in between."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket, self.rung = socket, 0

    def send(self, data: bytes, flags: int) -> None:
        self.rung += 1
        if self.rung == 1:
            raise KeyboardInterrupt
        self.socket.send(data, flags)

    def close(self) -> None:
        self.socket.close()


def test_an_interrupt_just_before_the_bell_is_rung_does_not_leave_the_loop_deaf(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.closing(LinkThread()) as loop:
        link, done = open_link(loop), threading.Semaphore(0)
        loop.call(link, done.release)
        assert done.acquire(timeout=10) and loop._waker is not None
        bell = Bell(loop._waker)
        monkeypatch.setattr(loop, "_waker", bell)
        with pytest.raises(KeyboardInterrupt):
            loop.call(link, done.release)
        assert done.acquire(timeout=10)  # with the next beat
        loop.call(link, done.release)
        assert bell.rung == 2 and done.acquire(timeout=10)


def test_an_interrupt_in_the_start_of_the_loop_does_not_keep_the_next_session_from_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with contextlib.closing(LinkThread()) as loop:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(threading.Thread, "start", lambda _: os.kill(os.getpid(), signal.SIGINT))
            open_link(loop)
        done = threading.Event()
        loop.call(open_link(loop), done.set)
        assert done.wait(10)


def test_the_key_of_a_client_opens_no_other_door(open_session: Session) -> None:
    found = open_session.connection
    gateway = psutil.Process(found.pid)
    listening = {one.laddr.port for one in gateway.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    [port] = listening - {found.port}
    keys = Keys(found.public_key, found.secret_key)
    with zmq.Context() as context:
        stranger = connect(context, found.host, port, found.gateway_key, keys, b"node-0", patient=True)
        line = Delivery(1, lambda frames: stranger.send_multipart(frames) is None)
        line.say(p.encode(p.Joined(p.VERSION, 0, 1, "127.0.0.1", 1, 0, 1)))
        line.say(p.encode(p.Happened([p.Lost(rank, "was made up") for rank in EVERY])))
        assert works(open_session)
        assert not stranger.poll(500)
        stranger.close(linger=0)
