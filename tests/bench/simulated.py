"""A real gateway in a process of its own, and agents whose workers exist in words only.

`python -m tests.bench.simulated gateway|agents`, with a specification on stdin, is one such process. Only what workers
would do is left out: every message that agents send and take is the real one, over real CURVE links.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import zmq

from modal_magic import protocol as p
from modal_magic import registry
from modal_magic.gateway.serving import run_gateway
from modal_magic.links.delivery import Delivery
from modal_magic.links.link import Keys, connect, make_keys
from modal_magic.sessions.session import Session
from modal_magic.specs import AgentSpec, GatewaySpec, GatewayUp
from tests.bench.surroundings import ROOT, child_environment

__all__ = ["STEPS", "STEP_SECONDS", "simulate"]

STEPS = "steps for "
"""A cell of this and a number of seconds has every rank tell of its steps for so long."""
STEP_SECONDS = 0.25


def be_gateway(spec: GatewaySpec) -> None:
    """Be the gateway until the session ends; the first line on stdout says where it listens."""
    run_gateway(spec, None, lambda up: print(msgspec.json.encode(up).decode(), flush=True))


@dataclass(frozen=True, slots=True)
class Stepping:
    """Ranks that tell of a step `1 / STEP_SECONDS` times a second, until the moment at which their cell is over."""

    ranks: list[int]
    run: str
    until: float

    def told(self, now: float) -> list[p.NodeEvent]:
        """What they say now."""
        left = self.until - now
        if left <= 0:
            return [p.Finished(rank, self.run, 1.0, p.Health()) for rank in self.ranks]
        step = float(int(1_000_000 - left / STEP_SECONDS))
        where = p.Whereabouts(7, "forward")
        bars = [p.Progress(rank, self.run, 1, "train", step, 1e6, False, 4.0) for rank in self.ranks]
        losses = [p.Metric(rank, self.run, "loss", 1 + 1 / (rank + 1), step) for rank in self.ranks]
        return [*bars, *losses, *(p.Usage(rank, self.run, where, 60, 3 << 30) for rank in self.ranks)]


def answer(order: p.Order) -> p.Report | None:
    """What an agent and its workers would say to an order, all of it in one message."""
    events: list[p.NodeEvent] = []
    match order:
        case p.Launch(places=places, generation=generation):
            for place in places:
                events += p.Launched(place.rank, 1), p.Grouped(place.rank, generation, "cpu", 0.0)
        case p.Submit(ranks=ranks, task=task):
            health = p.Health()
            for rank in ranks:
                events += p.Started(rank, task.run), p.Finished(rank, task.run, 0.0, health)
        case p.Shutdown():
            return p.Left("stopped")
        case _:
            return None
    return p.Happened(events)


def transmit(agent: zmq.Socket[bytes], frames: list[bytes]) -> bool:
    """Send a message."""
    agent.send_multipart(frames)
    return True


def be_agents(specs: list[AgentSpec]) -> None:
    """Be these agents, all in one thread, until each was told to shut down or nothing was heard for 10 s."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller = zmq.Poller()
    lines: dict[zmq.Socket[bytes], Delivery] = {}
    for spec in specs:
        keys, name = Keys(spec.public_key, spec.secret_key), f"node-{spec.node_rank}".encode()
        agent = connect(context, spec.gateway_host, spec.gateway_port, spec.gateway_key, keys, name, patient=False)
        lines[agent] = line = Delivery(time.time_ns(), functools.partial(transmit, agent))
        line.say(p.encode(p.Joined(p.VERSION, spec.node_rank, os.getpid(), spec.address, 1, 0, spec.cores)))
        poller.register(agent, zmq.POLLIN)
    next_beat, next_steps, heard = 0.0, 0.0, time.monotonic()
    busy: dict[zmq.Socket[bytes], Stepping] = {}
    while lines and time.monotonic() - heard < 10:
        if (now := time.monotonic()) >= next_beat:
            next_beat = now + p.BEAT_SECONDS
            for line in lines.values():
                line.beat()
        if busy and now >= next_steps:
            next_steps = now + STEP_SECONDS
            for agent, stepping in list(busy.items()):
                lines[agent].say(p.encode(p.Happened(stepping.told(now))))
                if now >= stepping.until:
                    del busy[agent]
        wake = min(next_beat, next_steps) if busy else next_beat
        for agent, _ in poller.poll(max(0, int((wake - time.monotonic()) * 1000))):
            heard = time.monotonic()
            data = lines[agent].take(agent.recv_multipart(), heard)
            order = p.decode_order(data) if data is not None else None
            report = answer(order) if order is not None else None
            if isinstance(order, p.Submit) and order.task.source.startswith(STEPS):
                seconds = float(order.task.source.removeprefix(STEPS))
                busy[agent] = Stepping(order.ranks, order.task.run, heard + seconds)
                report = p.Happened([p.Started(rank, order.task.run) for rank in order.ranks])
            if report is not None:
                lines[agent].say(p.encode(report))
            if isinstance(report, p.Left):
                del lines[agent]
                poller.unregister(agent)
                agent.close(linger=1000)
    context.destroy(linger=500)


@contextlib.contextmanager
def simulate(nodes: int, ranks_per_node: int) -> Iterator[Session]:
    """A session of nodes × ranks simulated workers, attached to, and ended afterwards."""
    name = registry.claim(f"simulated-{nodes}-{ranks_per_node}")
    gateway, client, node = make_keys(), make_keys(), make_keys()
    spec = GatewaySpec(
        session=name,
        host="127.0.0.1",
        public_key=gateway.public,
        secret_key=gateway.secret,
        client_key=client.public,
        node_key=node.public,
        nodes=nodes,
        ranks_per_node=ranks_per_node,
        framework="none",
        accelerated=False,
        i6pn=False,
        environment={},
        lease=60.0,
        folder=str(registry.folder_of(name)),
        log_limit=10**9,
    )
    with _process("gateway", msgspec.msgpack.encode(spec)) as process:
        assert process.stdout is not None
        up = msgspec.json.decode(process.stdout.readline(), type=GatewayUp)
        agents = [
            AgentSpec(
                session=name,
                node_rank=number,
                gateway_host=spec.host,
                gateway_port=up.node_port,
                gateway_key=gateway.public,
                public_key=node.public,
                secret_key=node.secret,
                address=spec.host,
                framework="none",
                cores=1,
                first_accelerator=0,
            )
            for number in range(nodes)
        ]
        connection = registry.Connection(
            version=p.VERSION,
            session=name,
            backend="local",
            host=spec.host,
            port=up.client_port,
            gateway_key=gateway.public,
            public_key=client.public,
            secret_key=client.secret,
            nodes=nodes,
            ranks_per_node=ranks_per_node,
            framework="none",
            gpu=None,
            environment={},
            pid=up.pid,
            born=registry.birth(up.pid) or 0.0,
            notebook="",
        )
        registry.publish(connection)
        with _process("agents", msgspec.msgpack.encode(agents)), Session.attach(name) as session:
            yield session


@contextlib.contextmanager
def _process(kind: str, packed: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """One of the two processes. It has a moment to end by itself after the block."""
    command = [sys.executable, "-m", "tests.bench.simulated", kind]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=child_environment()
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(packed)
        process.stdin.close()
        yield process
        process.wait(10)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    given = sys.stdin.buffer.read()
    if sys.argv[1] == "gateway":
        be_gateway(msgspec.msgpack.decode(given, type=GatewaySpec))
    else:
        be_agents(msgspec.msgpack.decode(given, type=list[AgentSpec]))
