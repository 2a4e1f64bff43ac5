"""The agent's end of the line to its gateway, over real sockets: it waits for nobody, and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from modal_magic import protocol as p
from modal_magic.links.delivery import Delivery
from modal_magic.node.uplink import Uplink

LARGE = "x" * 1_000_000
EVENTS = 60


@pytest.fixture
def line() -> Iterator[tuple[zmq.Socket[bytes], Uplink]]:
    """The gateway's socket and the agent's end; little fits between them."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as gateway, context.socket(zmq.DEALER) as agent:
        for socket in (gateway, agent):
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, 2)
            socket.setsockopt(zmq.RCVHWM, 1)
        agent.setsockopt(zmq.IDENTITY, b"node-0")
        agent.connect(f"tcp://127.0.0.1:{gateway.bind_to_random_port('tcp://127.0.0.1')}")
        yield gateway, Uplink(agent)


def fill(uplink: Uplink) -> int:
    """Have events sent until the gateway is behind. How many."""
    for number in range(EVENTS):
        uplink.emit(p.Output(0, "run", "stdout", f"{number} {LARGE}"))
        if not uplink.flush():
            return number + 1
    raise AssertionError("the gateway is never behind")


def test_what_a_gateway_that_is_behind_does_not_take_is_kept_in_order(
    line: tuple[zmq.Socket[bytes], Uplink],
) -> None:
    gateway, uplink = line
    count = fill(uplink)
    assert not uplink.takes_more()
    end = Delivery(uplink.line.epoch, lambda frames: gateway.send_multipart([b"node-0", *frames]) is None)
    heard: list[str] = []
    while len(heard) < count:
        assert gateway.poll(5000)
        data = end.take(gateway.recv_multipart()[1:], 0.0)
        assert data is not None
        report = p.decode_report(data)
        assert isinstance(report, p.Happened)
        heard += [event.text.partition(" ")[0] for event in report.events if isinstance(event, p.Output)]
        list(uplink.orders())
        uplink.flush()
    assert heard == [str(number) for number in range(count)]
    assert not uplink.pending


def test_a_gateway_that_died_while_it_was_behind_is_noticed_whatever_lies_there_unread(
    line: tuple[zmq.Socket[bytes], Uplink],
) -> None:
    gateway, uplink = line
    uplink.beat()
    assert gateway.poll(5000)
    end = Delivery(uplink.line.epoch, lambda frames: gateway.send_multipart([b"node-0", *frames]) is None)
    end.take(gateway.recv_multipart()[1:], 0.0)
    end.beat()
    assert uplink.socket.poll(5000)
    fill(uplink)
    gateway.close()
    heard = uplink.heard
    uplink.flush()
    assert uplink.heard == heard  # an order that nobody has read tells nothing
    assert list(uplink.orders()) == [p.Beat()]
    assert not uplink.is_dead(uplink.heard + p.DEAD_MAN_SECONDS - 1)
    assert uplink.is_dead(uplink.heard + p.DEAD_MAN_SECONDS + 1)
