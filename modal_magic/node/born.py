"""The first breath of a process that a zygote made: what it is told to be, it becomes."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback

import msgspec

from modal_magic.specs import AgentSpec, GatewaySpec, GatewayUp, WorkerSpec

__all__ = ["become", "main"]


def become(kind: str, packed: bytes, descriptors: list[int]) -> None:
    """Be a gateway, an agent or a worker until its end, then leave the process. Never returns."""
    code = 1
    try:
        os.setsid()
        for descriptor in descriptors:  # what a cell starts must not hold our lines open
            os.set_inheritable(descriptor, False)
        if kind == "gateway":
            _be_gateway(msgspec.msgpack.decode(packed, type=GatewaySpec), *descriptors)
        elif kind == "agent":
            _be_agent(msgspec.msgpack.decode(packed, type=AgentSpec), *descriptors)
        else:
            _be_worker(msgspec.msgpack.decode(packed, type=WorkerSpec), descriptors)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _be_gateway(spec: GatewaySpec, pipe: int, bell: int | None = None) -> None:
    from modal_magic.frameworks.base import open_store
    from modal_magic.gateway.serving import run_gateway

    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def announce(up: GatewayUp) -> None:
        os.write(pipe, msgspec.msgpack.encode(up))
        os.close(pipe)

    with open_store(spec.framework, spec.host, spec.session) as store:
        run_gateway(spec, store, announce, None if bell is None else socket.socket(fileno=bell))


def _be_agent(spec: AgentSpec, zygote: int, line: int | None = None) -> None:
    from modal_magic.node.agent import run_agent

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_agent(spec, socket.socket(fileno=zygote), None if line is None else socket.socket(fileno=line))


def _be_worker(spec: WorkerSpec, descriptors: list[int]) -> None:
    from modal_magic.node.worker import run_worker

    control, tasks, lifeline = (socket.socket(fileno=descriptor) for descriptor in descriptors[:3])
    run_worker(spec, control, tasks, lifeline, *descriptors[3:])


def main() -> None:
    """Be what the command line and the pipe that it names say."""
    with os.fdopen(int(sys.argv[2]), "rb") as given:
        spec_bytes = given.read()
    become(sys.argv[1], spec_bytes, [int(text) for text in sys.argv[3:]])


if __name__ == "__main__":
    main()
