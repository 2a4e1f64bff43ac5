"""What admitted peers may say in any order, damaged or not: the gateway stands it, and runs cells afterwards."""

from __future__ import annotations

import contextlib
import functools
import random
from pathlib import Path

import msgspec
import pytest
from msgspec import inspect as look

from modal_magic import protocol as p
from modal_magic.gateway import Gateway
from modal_magic.links.delivery import Delivery
from modal_magic.specs import GatewaySpec
from tests.test_protocol import example_of, members


class Sink:
    """A door behind which everybody takes everything."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, ...]] = []

    def send(self, identity: bytes, *frames: bytes) -> bool:
        self.sent.append((identity, *frames))
        return True

    def waiting(self) -> bool:
        return False


def joined(node_rank: int) -> p.Joined:
    return p.Joined(p.VERSION, node_rank, 100 + node_rank, "127.0.0.1", 29500, 0, 2)


class Rig:
    """A gateway of two nodes of two ranks, a clock, and its doors."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.nodes, self.clients = Sink(), Sink()
        spec = GatewaySpec(
            session="noisy", host="127.0.0.1", public_key="", secret_key="", client_key="", node_key="", nodes=2,
            ranks_per_node=2, framework="none", accelerated=False, i6pn=False, environment={}, lease=1e9,
            folder=str(folder), log_limit=10**9,
        )  # fmt: skip
        self.gateway = Gateway(spec, None, self.clients, self.nodes, lambda: self.now)
        self.lines = [Delivery(number, functools.partial(self.carry, number)) for number in range(3)]

    def carry(self, node_rank: int, frames: list[bytes]) -> bool:
        with contextlib.suppress(*p.NOISE):
            self.gateway.from_node(f"node-{node_rank}".encode(), frames)
        return True

    def node(self, node_rank: int, data: bytes) -> None:
        line = self.lines[node_rank]
        if data == p.encode(p.Beat()):
            line.beat()
        else:
            line.say(data)

    def client(self, *frames: bytes) -> None:
        with contextlib.suppress(*p.NOISE):
            self.gateway.from_client(b"client", list(frames))

    def turn(self, seconds: float) -> None:
        self.now += seconds
        self.gateway.turn()


def messages(union: object) -> list[p.Message]:
    """One of each, with small numbers in it."""
    return [example_of(kind) for kind in look.multi_type_info(members(union))]


def aimed(chance: random.Random, event: p.Message) -> p.Message:
    """An event of a rank and a run that there are."""
    fields = {"rank": chance.randrange(4), "run": f"run-{chance.randrange(400)}"}
    return msgspec.structs.replace(
        event, **{name: fields[name] for name in fields.keys() & set(event.__struct_fields__)}
    )


def damaged(chance: random.Random, data: bytes) -> bytes:
    """A message with nothing, a number or anything else in it changed."""
    found = bytearray(data)
    for _ in range(chance.choice([0, 0, 1, 2])):
        found[chance.randrange(len(found))] = chance.choice([0, 1, 2, 3, 7, chance.randrange(256)])
    return bytes(found)


@pytest.mark.parametrize("seed", range(40))
def test_a_gateway_stands_whatever_its_nodes_say(tmp_path: Path, seed: int) -> None:
    rig, chance = Rig(tmp_path), random.Random(seed)
    events = messages(p.NodeEvent)
    reports = [report for report in messages(p.Report) if not isinstance(report, p.Joined | p.Happened | p.Left)]
    rig.client(p.encode(p.Attach(p.VERSION, "client", None)))
    for node_rank in (0, 1):
        rig.node(node_rank, p.encode(joined(node_rank)))
    for number in range(400):
        match chance.randrange(6):
            case 0:
                rig.node(chance.randrange(3), damaged(chance, p.encode(chance.choice(reports))))
            case 1:
                rig.node(chance.randrange(3), damaged(chance, p.encode(joined(chance.randrange(3)))))
            case 2:
                rig.client(*p.numbered(number, p.Run(p.Execute(f"run-{number}", "pass", 1, 1), None, None)))
            case _:
                chosen = [aimed(chance, chance.choice(events)) for _ in range(chance.randrange(4))]
                rig.node(chance.randrange(3), damaged(chance, p.encode(p.Happened(chosen))))
        rig.turn(chance.choice([0.0, 0.01, 0.3]))
    assert rig.gateway.ended is None or "node" in rig.gateway.ended
    rig.gateway.close("over")


@pytest.mark.parametrize("seed", range(40))
def test_a_gateway_stands_whatever_its_clients_say(tmp_path: Path, seed: int) -> None:
    rig, chance = Rig(tmp_path), random.Random(seed)
    requests = [request for request in messages(p.Request) if not isinstance(request, p.Stop)]
    requests += [p.Attach(p.VERSION, "client", since) for since in (None, 0, -5, 3, 2**40)]
    for node_rank in (0, 1):
        rig.node(node_rank, p.encode(joined(node_rank)))
        rig.node(node_rank, p.encode(p.Happened([p.Notice(f"node {node_rank} has something to say")])))
    rig.client(p.encode(p.Attach(p.VERSION, "client", None)))
    for _ in range(400):
        for node_rank in (0, 1):
            rig.node(node_rank, p.encode(p.Beat()))
        data = damaged(chance, p.encode(chance.choice(requests)))
        present = rig.gateway.clients.present(b"client")
        number = present.taken + 1 if present is not None and chance.random() < 0.8 else chance.randrange(2**64)
        rig.client(*([number.to_bytes(8, "big")] if chance.random() < 0.8 else []), data)
        rig.turn(chance.choice([0.0, 0.01, 0.3]))
    assert rig.gateway.ended is None
    rig.client(p.encode(p.Attach(p.VERSION, "client", None)))
    present = rig.gateway.clients.present(b"client")
    assert present is not None
    rig.clients.sent.clear()
    rig.client(*p.numbered(present.taken + 1, p.AskStatus("after all")))
    rig.turn(0.3)
    replies = [p.decode_reply(frames[1]) for frames in rig.clients.sent if len(frames) == 2]
    assert any(isinstance(reply, p.Status) and reply.request == "after all" for reply in replies)
    rig.gateway.close("over")
