"""Volumes and secrets, as far as a function that names them needs."""

from __future__ import annotations

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2 as api

from tests.modal_emulator.service import Room
from tests.modal_emulator.stores import Shelf
from tests.modal_emulator.world import Container, World

__all__ = ["Volumes"]


class Volumes(Room):
    """See the module. A volume has no files here: commits and reloads are counted in the history."""

    def __init__(self, world: World, container: Container | None, shelf: Shelf) -> None:
        super().__init__(world, container)
        self.shelf = shelf

    async def VolumeGetOrCreate(self, request: api.VolumeGetOrCreateRequest) -> api.VolumeGetOrCreateResponse:
        id = self.shelf.id_of(self.world, "vo", request.deployment_name, request.object_creation_type)
        version = api.VolumeFsVersion.ValueType(self.shelf.versions.setdefault(id, request.version))
        return api.VolumeGetOrCreateResponse(volume_id=id, metadata=api.VolumeMetadata(version=version))

    async def VolumeHeartbeat(self, request: api.VolumeHeartbeatRequest) -> Empty:
        return Empty()

    async def VolumeCommit(self, request: api.VolumeCommitRequest) -> api.VolumeCommitResponse:
        self.world.note(f"{self.asking().id} committed {request.volume_id}")
        return api.VolumeCommitResponse(skip_reload=True)

    async def VolumeReload(self, request: api.VolumeReloadRequest) -> Empty:
        self.world.note(f"{self.asking().id} reloaded {request.volume_id}")
        return Empty()

    async def SecretGetOrCreate(self, request: api.SecretGetOrCreateRequest) -> api.SecretGetOrCreateResponse:
        id = self.shelf.id_of(self.world, "st", request.deployment_name, request.object_creation_type)
        self.world.secrets.setdefault(id, dict(request.env_dict))
        return api.SecretGetOrCreateResponse(secret_id=id)
