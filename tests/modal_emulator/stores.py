"""Dicts and queues that containers and clients share."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.modal_emulator.service import Room
from tests.modal_emulator.world import Container, World

__all__ = ["Shelf", "Stores"]

ITEM_BYTES = 1 << 20
QUEUE_ITEMS = 5000
PARTITION_BYTES = 64 << 20
KINDS = {"di": "Dict", "qu": "Queue", "st": "Secret", "vo": "Volume"}
"""What the beginnings of ids stand for."""


@dataclass(slots=True)
class Shelf:
    """All dicts and queues, and the versions of volumes, by id; names give their ids."""

    names: dict[str, str] = field(default_factory=dict)
    dicts: dict[str, dict[bytes, bytes]] = field(default_factory=lambda: defaultdict(dict))
    versions: dict[str, int] = field(default_factory=dict)
    queues: dict[tuple[str, bytes], deque[bytes]] = field(default_factory=lambda: defaultdict(deque))

    def id_of(self, world: World, prefix: str, name: str, creation: int) -> str:
        """The id of a name, made where that was asked for."""
        key = f"{prefix}:{name}" if name else ""
        if key in self.names:
            return self.names[key]
        if name and creation == api.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise GRPCError(Status.NOT_FOUND, f"{KINDS[prefix]} {name!r} not found")
        made = world.name(prefix)
        if key:
            self.names[key] = made
        return made


class Stores(Room):
    """See the module."""

    def __init__(self, world: World, container: Container | None, shelf: Shelf) -> None:
        super().__init__(world, container)
        self.shelf = shelf

    async def DictGetOrCreate(self, request: api.DictGetOrCreateRequest) -> api.DictGetOrCreateResponse:
        id = self.shelf.id_of(self.world, "di", request.deployment_name, request.object_creation_type)
        return api.DictGetOrCreateResponse(dict_id=id, metadata=api.DictMetadata(name=request.deployment_name))

    async def DictHeartbeat(self, request: api.DictHeartbeatRequest) -> Empty:
        return Empty()

    async def DictGet(self, request: api.DictGetRequest) -> api.DictGetResponse:
        value = self.shelf.dicts[request.dict_id].get(request.key)
        return api.DictGetResponse(found=value is not None, value=value)

    async def DictContains(self, request: api.DictContainsRequest) -> api.DictContainsResponse:
        return api.DictContainsResponse(found=request.key in self.shelf.dicts[request.dict_id])

    async def DictPop(self, request: api.DictPopRequest) -> api.DictPopResponse:
        value = self.shelf.dicts[request.dict_id].pop(request.key, None)
        return api.DictPopResponse(found=value is not None, value=value)

    async def DictLen(self, request: api.DictLenRequest) -> api.DictLenResponse:
        return api.DictLenResponse(len=len(self.shelf.dicts[request.dict_id]))

    async def DictUpdate(self, request: api.DictUpdateRequest) -> api.DictUpdateResponse:
        there = self.shelf.dicts[request.dict_id]
        created = False
        for entry in request.updates:
            if request.if_not_exists and entry.key in there:
                continue
            there[entry.key] = entry.value
            created = True
        return api.DictUpdateResponse(created=created)

    async def DictContents(self, request: api.DictContentsRequest) -> AsyncIterator[api.DictEntry]:
        for key, value in list(self.shelf.dicts[request.dict_id].items()):
            yield api.DictEntry(key=key, value=value if request.values else b"")

    async def QueueGetOrCreate(self, request: api.QueueGetOrCreateRequest) -> api.QueueGetOrCreateResponse:
        id = self.shelf.id_of(self.world, "qu", request.deployment_name, request.object_creation_type)
        return api.QueueGetOrCreateResponse(queue_id=id, metadata=api.QueueMetadata(name=request.deployment_name))

    async def QueueHeartbeat(self, request: api.QueueHeartbeatRequest) -> Empty:
        return Empty()

    async def QueuePut(self, request: api.QueuePutRequest) -> Empty:
        await self._far()
        there = self.shelf.queues[request.queue_id, request.partition_key]
        if any(len(value) > ITEM_BYTES for value in request.values):
            raise GRPCError(Status.INVALID_ARGUMENT, "Queue item is larger than 1 MiB")
        if len(there) + len(request.values) > QUEUE_ITEMS or sum(map(len, [*there, *request.values])) > PARTITION_BYTES:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, "Queue partition is full")
        there.extend(request.values)
        await self.world.ring()
        return Empty()

    async def QueueGet(self, request: api.QueueGetRequest) -> api.QueueGetResponse:
        there = self.shelf.queues[request.queue_id, request.partition_key]
        await self.world.until(lambda: bool(there), request.timeout)
        await self._far()
        count = min(len(there), max(1, request.n_values))
        return api.QueueGetResponse(values=[there.popleft() for _ in range(count)])

    async def _far(self) -> None:
        """A client is as far away as a test wants it; half a way is this, and half the other's."""
        if self.container is None:
            await asyncio.sleep(self.world.settings.round_trip / 2)

    async def QueueLen(self, request: api.QueueLenRequest) -> api.QueueLenResponse:
        mine = [len(there) for (id, _), there in self.shelf.queues.items() if id == request.queue_id]
        return api.QueueLenResponse(len=sum(mine))

    async def QueueDelete(self, request: api.QueueDeleteRequest) -> Empty:
        for key in [key for key in self.shelf.queues if key[0] == request.queue_id]:
            del self.shelf.queues[key]
        return Empty()
