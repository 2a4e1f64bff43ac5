"""The agent's end of the line to its gateway, on both kinds of wire: it waits for nobody, and loses nothing."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import zmq

from modal_magic import protocol as p
from modal_magic.gateway.doors import NodeDoor, SocketDoor
from modal_magic.links.delivery import Delivery
from modal_magic.links.framing import frame
from modal_magic.links.waiting import Waiter
from modal_magic.links.wires import PairWire, ZmqWire, identity_of
from modal_magic.node.uplink import Uplink
from modal_magic.specs import Introduced
from tests.support.eventually import until

LARGE = "x" * 1_000_000
EVENTS = 60


@dataclass
class Line:
    """A line between a gateway and an agent, and how its ends wait."""

    door: NodeDoor
    uplink: Uplink
    gateway_waits: Waiter
    agent_waits: Waiter
    cut: Callable[[], None]

    def at_the_gateway(self) -> list[list[bytes]]:
        """The messages that have come to the gateway."""
        found: list[list[bytes]] = []
        self.gateway_waits.watch(self.door.wanted())
        self.door.drain(lambda identity, frames: found.append(frames), self.gateway_waits.wait(5.0))
        return found

    def orders(self, seconds: float = 0.0) -> list[p.Order]:
        """The orders that have come to the agent."""
        self.agent_waits.watch(self.uplink.wire.wanted())
        return list(self.uplink.orders(self.agent_waits.wait(seconds, self.uplink.awaits)))


@pytest.fixture(params=["zmq", "pair"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    """Little fits between its ends."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        router, dealer = (stack.enter_context(context.socket(kind)) for kind in (zmq.ROUTER, zmq.DEALER))
        for end in (router, dealer):
            end.setsockopt(zmq.LINGER, 0)
            end.setsockopt(zmq.SNDHWM, 2)
            end.setsockopt(zmq.RCVHWM, 1)
        dealer.setsockopt(zmq.IDENTITY, identity_of(0))
        port = router.bind_to_random_port("tcp://127.0.0.1")
        bell, zygote = map(stack.enter_context, socket.socketpair())
        here, there = map(stack.enter_context, socket.socketpair())
        door = NodeDoor(SocketDoor(router), bell)
        gateway_waits = stack.enter_context(contextlib.closing(Waiter(router)))
        if request.param == "zmq":
            dealer.connect(f"tcp://127.0.0.1:{port}")
            agent_waits = stack.enter_context(contextlib.closing(Waiter(dealer)))
            yield Line(door, Uplink(ZmqWire(dealer)), gateway_waits, agent_waits, router.close)
        else:
            socket.send_fds(zygote, [frame(Introduced(0))], [here.fileno()])
            here.close()
            agent_waits = stack.enter_context(contextlib.closing(Waiter()))
            line = Line(door, Uplink(PairWire(there)), gateway_waits, agent_waits, door.close)
            assert not line.at_the_gateway()
            yield line
        door.close()


def fill(uplink: Uplink) -> int:
    """Have events sent until the gateway is behind. How many."""
    for number in range(EVENTS):
        uplink.emit(p.Output(0, "run", "stdout", f"{number} {LARGE}"))
        if not uplink.flush():
            return number + 1
    raise AssertionError("the gateway is never behind")


def test_what_a_gateway_that_is_behind_does_not_take_is_kept_in_order(line: Line) -> None:
    uplink = line.uplink
    count = fill(uplink)
    assert not uplink.takes_more()
    end = Delivery(uplink.line.epoch, lambda frames: line.door.send(identity_of(0), *frames))
    heard: list[str] = []
    while len(heard) < count:
        for frames in line.at_the_gateway():
            data = end.take(frames, 0.0)
            assert data is not None
            report = p.decode_report(data)
            assert isinstance(report, p.Happened)
            heard += [event.text.partition(" ")[0] for event in report.events if isinstance(event, p.Output)]
        line.orders()
        uplink.flush()
    assert heard == [str(number) for number in range(count)]
    assert not uplink.pending


def test_a_gateway_that_died_while_it_was_behind_is_noticed_whatever_lies_there_unread(line: Line) -> None:
    uplink = line.uplink
    uplink.beat()
    end = Delivery(uplink.line.epoch, lambda frames: line.door.send(identity_of(0), *frames))
    until(lambda: any(end.take(frames, 0.0) is not None for frames in line.at_the_gateway()))
    end.beat()
    until(uplink.wire.waiting)
    fill(uplink)
    line.cut()
    heard = uplink.heard
    uplink.flush()
    assert uplink.heard == heard  # an order that nobody has read tells nothing
    assert line.orders(5.0) == [p.Beat()]
    assert not uplink.is_dead(uplink.heard + p.DEAD_MAN_SECONDS - 1)
    assert line.orders() == []
    assert uplink.is_dead(uplink.heard + p.DEAD_MAN_SECONDS + 1)
