"""Tunnels: a port of this machine that leads to a port of a container (`modal.forward`, unencrypted)."""

from __future__ import annotations

import asyncio
import contextlib

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.emulator.network import connect_inside
from tests.emulator.service import Room
from tests.emulator.world import Container

__all__ = ["Tunnels"]


class Tunnels(Room):
    """See the module."""

    async def TunnelStart(self, request: api.TunnelStartRequest) -> api.TunnelStartResponse:
        container = self.asking()
        if request.port in container.tunnels:
            raise GRPCError(Status.ALREADY_EXISTS, f"port {request.port} is forwarded already")
        if not request.unencrypted:
            raise GRPCError(Status.UNIMPLEMENTED, "the emulator has no tunnels with TLS")

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._carry(container, request.port, reader, writer)

        server = await asyncio.start_server(carry, "127.0.0.1", 0)
        container.tunnels[request.port] = server
        port = server.sockets[0].getsockname()[1]
        return api.TunnelStartResponse(host="127.0.0.1", port=443, unencrypted_host="127.0.0.1", unencrypted_port=port)

    async def TunnelStop(self, request: api.TunnelStopRequest) -> api.TunnelStopResponse:
        server = self.asking().tunnels.pop(request.port, None)
        if server is not None:
            server.close()
        return api.TunnelStopResponse(exists=server is not None)

    async def _carry(
        self, container: Container, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            inside = await asyncio.to_thread(connect_inside, container.namespace, port)
            there, back = await asyncio.open_connection(sock=inside)
        except OSError:
            writer.close()
            return
        directions = [asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))]
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, back):
            end.close()
        for direction in directions:
            direction.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.CancelledError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
