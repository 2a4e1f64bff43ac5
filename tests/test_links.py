"""The doors of a session: who gets in, and what noise does to it (real gateway, real sockets)."""

from __future__ import annotations

import random
import socket
import stat

import pytest
import zmq

from modal_magic import Session, registry
from modal_magic import protocol as p
from modal_magic.link import Keys, connect, make_keys
from modal_magic.session import Resources

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
        stranger.send(p.encode(p.Attach(p.VERSION, "stranger", 0)))
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
