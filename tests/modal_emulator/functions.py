"""Functions and classes: defined when an app is deployed, and found by their names."""

from __future__ import annotations

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.modal_emulator.rules import check
from tests.modal_emulator.service import Room
from tests.modal_emulator.world import App, Function

__all__ = ["Functions"]


class Functions(Room):
    """See the module."""

    async def FunctionPrecreate(self, request: api.FunctionPrecreateRequest) -> api.FunctionPrecreateResponse:
        app = self.world.apps[request.app_id]
        id = request.existing_function_id or self.world.name("fu")
        metadata = api.FunctionHandleMetadata(
            app_id=app.id,
            function_name=request.function_name,
            function_type=request.function_type,
            definition_id=f"de-{id[3:]}",
            function_schema=request.function_schema,
            supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        for name, method in request.method_definitions.items():
            metadata.method_handle_metadata[name].CopyFrom(
                api.FunctionHandleMetadata(
                    app_id=app.id,
                    function_name=method.function_name,
                    function_type=method.function_type,
                    is_method=True,
                    use_method_name=name,
                    definition_id=metadata.definition_id,
                    function_schema=method.function_schema,
                    supported_input_formats=method.supported_input_formats,
                    supported_output_formats=method.supported_output_formats,
                )
            )
        self.world.functions[id] = Function(id, app, request.function_name, metadata)
        return api.FunctionPrecreateResponse(function_id=id, handle_metadata=metadata)

    async def FunctionCreate(self, request: api.FunctionCreateRequest) -> api.FunctionCreateResponse:
        ranked = list(request.function_data.ranked_functions) or [
            api.FunctionData.RankedFunction(rank=0, function=request.function)
        ]
        for candidate in ranked:
            check(candidate.function)
        function = self.world.functions[request.existing_function_id]
        function.definition = ranked[0].function
        function.gpus = [one.function.resources.gpu_config for one in ranked]
        if function.definition.HasField("class_parameter_info"):
            function.metadata.class_parameter_info.CopyFrom(function.definition.class_parameter_info)
        return api.FunctionCreateResponse(
            function_id=function.id, handle_metadata=function.metadata, function_data=self._data(function)
        )

    async def FunctionBindParams(self, request: api.FunctionBindParamsRequest) -> api.FunctionBindParamsResponse:
        base = self.world.functions[request.function_id]
        found = next((one for one in self.world.functions.values() if one.bound == request), None)
        if found is None:
            definition = optioned(base.definition, request.function_options)
            check(definition)
            found = Function(self.world.name("fu"), base.app, base.name, base.metadata, definition, base.gpus)
            found.bound = request
            self.world.functions[found.id] = found
        return api.FunctionBindParamsResponse(bound_function_id=found.id, handle_metadata=found.metadata)

    async def ClassCreate(self, request: api.ClassCreateRequest) -> api.ClassCreateResponse:
        id = request.existing_class_id or self.world.name("cs")
        return api.ClassCreateResponse(class_id=id, handle_metadata=api.ClassHandleMetadata())

    async def FunctionGet(self, request: api.FunctionGetRequest) -> api.FunctionGetResponse:
        app = self._deployed(request.app_name)
        if request.object_tag not in app.functions:
            raise GRPCError(Status.NOT_FOUND, f"{request.object_tag} is not in app {request.app_name}")
        function = self.world.functions[app.functions[request.object_tag]]
        return api.FunctionGetResponse(
            function_id=function.id, handle_metadata=function.metadata, function=self._data(function)
        )

    async def ClassGet(self, request: api.ClassGetRequest) -> api.ClassGetResponse:
        app = self._deployed(request.app_name)
        if request.object_tag not in app.classes:
            raise GRPCError(Status.NOT_FOUND, f"{request.object_tag} is not in app {request.app_name}")
        return api.ClassGetResponse(class_id=app.classes[request.object_tag], handle_metadata=api.ClassHandleMetadata())

    def _deployed(self, name: str) -> App:
        app = self.world.app_named(name)
        if app is None:
            raise GRPCError(Status.NOT_FOUND, f"App {name!r} not found")
        return app

    def _data(self, function: Function) -> api.FunctionData:
        definition = function.definition
        return api.FunctionData(
            module_name=definition.module_name,
            function_name=definition.function_name,
            function_type=definition.function_type,
            is_class=definition.is_class,
            timeout_secs=definition.timeout_secs,
            ranked_functions=[api.FunctionData.RankedFunction(rank=0, function=definition)],
        )


def optioned(definition: api.Function, options: api.FunctionOptions) -> api.Function:
    """A function as `with_options` makes it of another: what is named takes the place of what was there."""
    made = api.Function()
    made.CopyFrom(definition)
    for name in ("resources", "retry_policy", "scheduler_placement"):
        if options.HasField(name):
            getattr(made, name).MergeFrom(getattr(options, name))
    for name in ("timeout_secs", "cloud_provider_str"):
        if options.HasField(name):
            setattr(made, name, getattr(options, name))
    scaling = {"concurrency_limit": "max_containers", "task_idle_timeout_secs": "scaledown_window"}
    for name, ours in scaling.items():
        if options.HasField(name):
            setattr(made.autoscaler_settings, ours, getattr(options, name))
    for name, replaced in (("secret_ids", "replace_secret_ids"), ("volume_mounts", "replace_volume_mounts")):
        if getattr(options, replaced):
            made.ClearField(name)
        getattr(made, name).extend(getattr(options, name))
    return made
