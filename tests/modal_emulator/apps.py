"""Environments and apps: made, deployed, found, listed, stopped; and what runs of them."""

from __future__ import annotations

import time
from collections.abc import Callable

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.modal_emulator.service import Room
from tests.modal_emulator.world import App, Container, World

__all__ = ["Apps"]


class Apps(Room):
    """See the module. `stop` ends a container."""

    def __init__(self, world: World, container: Container | None, stop: Callable[[Container], None]) -> None:
        super().__init__(world, container)
        self.stop = stop

    async def ClientHello(self, request: Empty) -> api.ClientHelloResponse:
        return api.ClientHelloResponse()

    async def EnvironmentGetOrCreate(
        self, request: api.EnvironmentGetOrCreateRequest
    ) -> api.EnvironmentGetOrCreateResponse:
        settings = api.EnvironmentSettings(image_builder_version="2025.06", webhook_suffix="")
        metadata = api.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return api.EnvironmentGetOrCreateResponse(environment_id="en-000001", metadata=metadata)

    async def AppCreate(self, request: api.AppCreateRequest) -> api.AppCreateResponse:
        app = App(self.world.name("ap"), description=request.description, state=request.app_state)
        self.world.apps[app.id] = app
        return api.AppCreateResponse(app_id=app.id, app_page_url=f"http://emulator/{app.id}")

    async def AppGetByDeploymentName(
        self, request: api.AppGetByDeploymentNameRequest
    ) -> api.AppGetByDeploymentNameResponse:
        app = self.world.app_named(request.name)
        return api.AppGetByDeploymentNameResponse(app_id=app.id if app else "", environment_name="main")

    async def AppGetOrCreate(self, request: api.AppGetOrCreateRequest) -> api.AppGetOrCreateResponse:
        app = self.world.app_named(request.app_name)
        if app is None:
            raise GRPCError(Status.NOT_FOUND, f"App {request.app_name!r} not found")
        return api.AppGetOrCreateResponse(app_id=app.id)

    async def AppGetLayout(self, request: api.AppGetLayoutRequest) -> api.AppGetLayoutResponse:
        return api.AppGetLayoutResponse(app_layout=layout_of(self.world, self.world.apps[request.app_id]))

    async def AppHeartbeat(self, request: api.AppHeartbeatRequest) -> Empty:
        return Empty()

    async def AppPublish(self, request: api.AppPublishRequest) -> api.AppPublishResponse:
        app = self.world.apps[request.app_id]
        app.name, app.state = request.name, request.app_state
        app.functions, app.classes = dict(request.function_ids), dict(request.class_ids)
        self.world.note(f"deployed {app.name}")
        return api.AppPublishResponse(url=f"http://emulator/{app.id}", deployed_at=time.time())

    async def AppClientDisconnect(self, request: api.AppClientDisconnectRequest) -> Empty:
        app = self.world.apps[request.app_id]
        if app.state != api.APP_STATE_DEPLOYED:
            self._end(app)
        return Empty()

    async def AppStop(self, request: api.AppStopRequest) -> Empty:
        self._end(self.world.apps[request.app_id])
        return Empty()

    async def AppList(self, request: api.AppListRequest) -> api.AppListResponse:
        return api.AppListResponse(
            apps=[
                api.AppListResponse.AppListItem(
                    app_id=app.id,
                    description=app.name or app.description,
                    name=app.name,
                    state=api.AppState.ValueType(app.state),
                    n_running_tasks=sum(one.function.app is app for one in self.world.containers.values()),
                )
                for app in self.world.apps.values()
            ]
        )

    async def TaskList(self, request: api.TaskListRequest) -> api.TaskListResponse:
        return api.TaskListResponse(
            tasks=[
                api.TaskStats(
                    task_id=one.id,
                    app_id=one.function.app.id,
                    app_description=one.function.app.name,
                    enqueued_at=one.enqueued_at,
                    started_at=one.started_at,
                )
                for one in self.world.containers.values()
                if request.app_id in ("", one.function.app.id)
            ]
        )

    async def TaskGetInfo(self, request: api.TaskGetInfoRequest) -> api.TaskGetInfoResponse:
        container = self.world.containers.get(request.task_id)
        if container is None:
            raise GRPCError(Status.NOT_FOUND, f"Container {request.task_id} not found")
        return api.TaskGetInfoResponse(app_id=container.function.app.id, info=api.TaskInfo(id=container.id))

    async def ContainerStop(self, request: api.ContainerStopRequest) -> api.ContainerStopResponse:
        if (container := self.world.containers.get(request.task_id)) is not None:
            self.stop(container)
        return api.ContainerStopResponse()

    def _end(self, app: App) -> None:
        app.state = api.APP_STATE_STOPPED
        for container in list(self.world.containers.values()):
            if container.function.app is app:
                self.stop(container)


def layout_of(world: World, app: App) -> api.AppLayout:
    """The functions and classes of an app, as clients and containers are told."""
    functions = [
        api.Object(object_id=id, function_handle_metadata=world.functions[id].metadata) for id in app.functions.values()
    ]
    classes = [api.Object(object_id=id, class_handle_metadata=api.ClassHandleMetadata()) for id in app.classes.values()]
    return api.AppLayout(objects=[*functions, *classes], function_ids=app.functions, class_ids=app.classes)
