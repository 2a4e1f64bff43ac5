"""The rooms of the emulator as one gRPC service, on the base class that Modal's own client is made with."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from typing import Any

from grpclib import GRPCError, Status
from grpclib.server import Stream
from modal_proto.api_grpc import ModalClientBase

from tests.modal_emulator.world import Container, World

__all__ = ["Room", "service_of"]

METHODS = sorted(
    name for name in vars(ModalClientBase) if getattr(getattr(ModalClientBase, name), "__isabstractmethod__", 0)
)


class Room:
    """Part of the service. A method named as an RPC takes its request and returns its response, or yields many.

    `container` is who asks: requests of containers do not say, so each has a listener of its own. None is a client.
    """

    def __init__(self, world: World, container: Container | None) -> None:
        self.world = world
        self.container = container

    def asking(self) -> Container:
        """The container that asks. Raises GRPCError for a client."""
        if self.container is None:
            raise GRPCError(Status.PERMISSION_DENIED, "only a container may ask this")
        return self.container


def _answer(name: str, rooms: list[Room]) -> Callable[[Stream[Any, Any]], Any]:
    handler = next((getattr(room, name) for room in rooms if hasattr(room, name)), None)

    async def answer(stream: Stream[Any, Any]) -> None:
        request = await stream.recv_message()
        world = rooms[0].world
        await world.until(lambda: world.settings.answers, math.inf)
        if handler is None:
            print(f"emulator: {name} is not there", file=sys.stderr, flush=True)
            raise GRPCError(Status.UNIMPLEMENTED, f"the emulator has no {name}")
        if (token := stream.metadata.get("x-modal-token-id")) is not None and not str(token).startswith("ak-"):
            raise GRPCError(Status.UNAUTHENTICATED, "Token ID is malformed")
        if name in (refused := world.settings.refused):
            status, reason = refused[name]
            raise GRPCError(Status[status], reason)
        try:
            if inspect.isasyncgenfunction(handler):
                async for response in handler(request):
                    await stream.send_message(response)
            else:
                await stream.send_message(await handler(request))
        except (GRPCError, ConnectionError):
            raise
        except Exception as error:
            print(f"emulator: {name} failed: {error!r}", file=sys.stderr, flush=True)
            raise GRPCError(Status.INTERNAL, repr(error)) from error

    return answer


def service_of(rooms: list[Room]) -> ModalClientBase:
    """The service that these rooms make; what none of them has is answered by UNIMPLEMENTED."""
    answers = {name: staticmethod(_answer(name, rooms)) for name in METHODS}
    made: ModalClientBase = type("Service", (ModalClientBase,), answers)()
    return made
