"""Tunnels: a port of this machine that leads to a port of a container (`modal.forward`), as it is or with TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import time
from pathlib import Path

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.modal_emulator.network import connect_inside
from tests.modal_emulator.service import Room
from tests.modal_emulator.world import Container

__all__ = ["Tunnels"]


class Tunnels(Room):
    """See the module."""

    async def TunnelStart(self, request: api.TunnelStartRequest) -> api.TunnelStartResponse:
        container = self.asking()
        if request.port in container.tunnels:
            raise GRPCError(Status.ALREADY_EXISTS, f"port {request.port} is forwarded already")

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._carry(container, request.port, reader, writer)

        context = None if request.unencrypted else await asyncio.to_thread(with_tls, self.world.folder)
        server = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=context)
        container.tunnels[request.port] = server
        port = server.sockets[0].getsockname()[1]
        if request.unencrypted:
            return api.TunnelStartResponse(
                host="127.0.0.1", port=443, unencrypted_host="127.0.0.1", unencrypted_port=port
            )
        return api.TunnelStartResponse(host="127.0.0.1", port=port)

    async def TunnelStop(self, request: api.TunnelStopRequest) -> api.TunnelStopResponse:
        server = self.asking().tunnels.pop(request.port, None)
        if server is not None:
            server.close()
        return api.TunnelStopResponse(exists=server is not None)

    async def _carry(
        self, container: Container, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if not self.world.settings.tunnels:
            writer.close()
            return
        try:
            inside = await asyncio.to_thread(connect_inside, container.namespace, port)
            there, back = await asyncio.open_connection(sock=inside)
        except OSError:
            writer.close()
            return
        delay = self.world.settings.round_trip / 2
        directions = [asyncio.create_task(pump(reader, back, delay)), asyncio.create_task(pump(there, writer, delay))]
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, back):
            end.close()
        for direction in directions:
            direction.cancel()


def with_tls(folder: Path) -> ssl.SSLContext:
    """The server's side of TLS, with a certificate of the emulator's own: `certificate.pem` in its folder."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if not certificate.exists():
        words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=emulator"
        names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(["openssl", *words.split(), *names], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass bytes on, each `delay` seconds after it came, however many are on their way."""
    due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1000)

    async def take() -> None:
        while data := await reader.read(1 << 16):
            await due.put((time.monotonic() + delay, data))
        await due.put((time.monotonic() + delay, b""))

    taking = asyncio.create_task(take())
    try:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while True:
                moment, data = await due.get()
                await asyncio.sleep(max(0.0, moment - time.monotonic()))
                if not data:
                    return
                writer.write(data)
                await writer.drain()
    finally:
        taking.cancel()
