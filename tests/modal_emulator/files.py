"""Images, and the files that travel with a function (mounts): kept by content, laid out for a container."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.modal_emulator.service import Room
from tests.modal_emulator.world import Container, World

__all__ = ["Files", "Library"]

BUILT = api.GenericResult(status=api.GenericResult.GENERIC_STATUS_SUCCESS)
MADE = api.ImageMetadata(image_builder_version="2025.06")


@dataclass(slots=True)
class Library:
    """Contents by their hash, mounts by their id, image definitions by theirs."""

    contents: dict[str, bytes] = field(default_factory=dict)
    mounts: dict[str, list[api.MountFile]] = field(default_factory=dict)
    images: dict[str, api.Image] = field(default_factory=dict)

    def layers(self, image: str) -> list[str]:
        """The commands that an image is built by, the last layer first."""
        found = self.images[image]
        below = [text for base in found.base_images for text in self.layers(base.image_id)]
        return ["\n".join(found.dockerfile_commands), *below]

    def lay_out(self, mounts: list[str], root: Path) -> None:
        """Write the files of mounts that belong to a container's /root into a folder."""
        for mount in mounts:
            for file in self.mounts.get(mount, []):
                path = PurePosixPath(file.filename)
                if path.is_relative_to("/root"):
                    target = root / path.relative_to("/root")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(self.contents[file.sha256_hex])


class Files(Room):
    """See the module."""

    def __init__(self, world: World, container: Container | None, library: Library) -> None:
        super().__init__(world, container)
        self.library = library

    async def MountBatchedCheckExistence(
        self, request: api.MountBatchedCheckExistenceRequest
    ) -> api.MountBatchedCheckExistenceResponse:
        missing = [name for name in request.sha256_hex_hashes if name not in self.library.contents]
        return api.MountBatchedCheckExistenceResponse(missing_sha256_hex_hashes=missing)

    async def MountPutFile(self, request: api.MountPutFileRequest) -> api.MountPutFileResponse:
        if request.WhichOneof("data_oneof") == "data":
            if hashlib.sha256(request.data).hexdigest() != request.sha256_hex:
                raise GRPCError(Status.INVALID_ARGUMENT, "the content does not have this hash")
            self.library.contents[request.sha256_hex] = request.data
        return api.MountPutFileResponse(exists=request.sha256_hex in self.library.contents)

    async def MountGetOrCreate(self, request: api.MountGetOrCreateRequest) -> api.MountGetOrCreateResponse:
        id = self.world.name("mo")
        self.library.mounts[id] = list(request.files)
        return api.MountGetOrCreateResponse(mount_id=id, handle_metadata=api.MountHandleMetadata())

    async def ImageGetOrCreate(self, request: api.ImageGetOrCreateRequest) -> api.ImageGetOrCreateResponse:
        id = self.world.name("im")
        self.library.images[id] = request.image
        if self._fails(request.image) or self.world.settings.build_seconds:
            return api.ImageGetOrCreateResponse(image_id=id)  # not built yet: the client joins the build
        return api.ImageGetOrCreateResponse(image_id=id, result=BUILT, metadata=MADE)

    async def ImageJoinStreaming(
        self, request: api.ImageJoinStreamingRequest
    ) -> AsyncIterator[api.ImageJoinStreamingResponse]:
        image = self.library.images[request.image_id]
        self.world.note(f"{request.image_id} is built")
        await asyncio.sleep(self.world.settings.build_seconds)
        if not self._fails(image):
            yield api.ImageJoinStreamingResponse(result=BUILT, metadata=MADE, entry_id="1-0", eof=True)
            return
        commands = "\n".join(image.dockerfile_commands)
        log = f"{commands}\nERROR: No matching distribution found for {self.world.settings.broken_image}\n"
        yield api.ImageJoinStreamingResponse(task_logs=[api.TaskLogs(data=log)], entry_id="1-0")
        failed = api.GenericResult(status=api.GenericResult.GENERIC_STATUS_FAILURE)
        yield api.ImageJoinStreamingResponse(result=failed, entry_id="2-0", eof=True)

    def _fails(self, image: api.Image) -> bool:
        broken = self.world.settings.broken_image
        return bool(broken) and any(broken in command for command in image.dockerfile_commands)
