"""Blobs: arguments and results that are too large for a message, put to and got from a small HTTP server."""

from __future__ import annotations

import hashlib
import socket

from aiohttp import web
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.modal_emulator import network
from tests.modal_emulator.service import Room
from tests.modal_emulator.world import Container, World

__all__ = ["Blobs", "Warehouse"]

MOST_BYTES = 1 << 30


class Warehouse:
    """The contents of blobs, and the server of them. Clients and containers find it at one port of their own loopback.

    A class because the server must be ended.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.port = 0
        application = web.Application(client_max_size=MOST_BYTES)
        application.router.add_put("/{id}", self._put)
        application.router.add_get("/{id}", self._get)
        self._runner = web.AppRunner(application)

    async def open(self) -> None:
        """Begin to serve, for clients and for containers without a namespace."""
        await self._runner.setup()
        own = socket.create_server(("127.0.0.1", 0))
        self.port = own.getsockname()[1]
        await web.SockSite(self._runner, own).start()

    async def open_inside(self, namespace: network.Namespace) -> web.BaseSite:
        """Serve in a namespace too, until the site is stopped."""
        site = web.SockSite(self._runner, network.listen_inside(namespace, self.port))
        await site.start()
        return site

    async def close(self) -> None:
        """End the server."""
        await self._runner.cleanup()

    async def _put(self, request: web.Request) -> web.Response:
        data = self.contents[request.match_info["id"]] = await request.read()
        return web.Response(headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    async def _get(self, request: web.Request) -> web.Response:
        return web.Response(body=self.contents[request.match_info["id"]])


class Blobs(Room):
    """See the module."""

    def __init__(self, world: World, container: Container | None, warehouse: Warehouse) -> None:
        super().__init__(world, container)
        self.warehouse = warehouse

    async def BlobCreate(self, request: api.BlobCreateRequest) -> api.BlobCreateResponse:
        id = self.world.name("bl")
        return api.BlobCreateResponse(blob_ids=[id], upload_urls=api.UploadUrlList(items=[self._url(id)]))

    async def BlobGet(self, request: api.BlobGetRequest) -> api.BlobGetResponse:
        if request.blob_id not in self.warehouse.contents:
            raise GRPCError(Status.NOT_FOUND, f"Blob {request.blob_id} not found")
        return api.BlobGetResponse(download_url=self._url(request.blob_id))

    def _url(self, id: str) -> str:
        return f"http://127.0.0.1:{self.warehouse.port}/{id}"
