"""Calls: what a client asks of a function, what a container takes and gives back, and how a call is cancelled."""

from __future__ import annotations

import time

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.modal_emulator.containers import Fleet
from tests.modal_emulator.service import Room
from tests.modal_emulator.world import Call, Container, Input, World

__all__ = ["Calls"]

POLL_SECONDS = 50.0
HEARTBEAT_SECONDS = 10.0
"""How long a heartbeat is held: a container would give up one of 15 s, and a cancellation rides on it."""


class Calls(Room):
    """See the module."""

    def __init__(self, world: World, container: Container | None, fleet: Fleet) -> None:
        super().__init__(world, container)
        self.fleet = fleet

    # -- clients

    async def FunctionMap(self, request: api.FunctionMapRequest) -> api.FunctionMapResponse:
        function = self.world.functions[request.function_id]
        if function.app.state == api.APP_STATE_STOPPED:
            raise GRPCError(Status.NOT_FOUND, f"App {function.app.name!r} is stopped")
        call = Call(self.world.name("fc"), function)
        self.world.calls[call.id] = call
        items = self._add(call, list(request.pipelined_inputs), request.function_call_invocation_type)
        await self.fleet.look()
        return api.FunctionMapResponse(function_call_id=call.id, pipelined_inputs=items)

    async def FunctionPutInputs(self, request: api.FunctionPutInputsRequest) -> api.FunctionPutInputsResponse:
        call = self.world.calls[request.function_call_id]
        items = self._add(call, list(request.inputs), api.FUNCTION_CALL_INVOCATION_TYPE_SYNC)
        await self.fleet.look()
        return api.FunctionPutInputsResponse(inputs=items)

    async def FunctionFinishInputs(self, request: api.FunctionFinishInputsRequest) -> Empty:
        return Empty()

    async def FunctionGetOutputs(self, request: api.FunctionGetOutputsRequest) -> api.FunctionGetOutputsResponse:
        call = self._call(request.function_call_id)
        start, end = request.start_idx, max(request.start_idx, request.end_idx)
        told = int(request.last_entry_id.partition("-")[0] or 0)  # by a map, which takes outputs as they come

        def done() -> list[api.FunctionGetOutputsItem]:
            asked = call.inputs[start : end + 1] if request.HasField("start_idx") else call.answered[told:]
            return [one.output for one in asked if one.output is not None]

        await self.world.until(lambda: bool(done()), min(request.timeout, POLL_SECONDS))
        unfinished, outputs = sum(one.output is None for one in call.inputs), done()
        return api.FunctionGetOutputsResponse(
            outputs=outputs, num_unfinished_inputs=unfinished, last_entry_id=f"{told + len(outputs)}-0"
        )

    async def FunctionCallFromId(self, request: api.FunctionCallFromIdRequest) -> api.FunctionCallFromIdResponse:
        call = self._call(request.function_call_id)
        return api.FunctionCallFromIdResponse(function_call_id=call.id, num_inputs=len(call.inputs))

    async def FunctionCallCancel(self, request: api.FunctionCallCancelRequest) -> Empty:
        call = self._call(request.function_call_id)
        call.cancelled = True
        for one in call.inputs:
            if one.output is None:
                await self._cancel(one, request.terminate_containers)
        await self.world.ring()
        return Empty()

    async def _cancel(self, one: Input, terminate: bool) -> None:
        waiting = one.call.function.waiting
        if one in waiting:
            waiting.remove(one)
            self.fleet.give_up(one)
            return
        for container in list(self.world.containers.values()):
            if one.id in container.working_on:
                if terminate:
                    self.fleet.give_up(one)
                    self.fleet.stop(container)
                else:
                    container.cancelled.add(one.id)

    def _call(self, name: str) -> Call:
        if name not in self.world.calls:
            raise GRPCError(Status.NOT_FOUND, f"Function call {name} not found")
        return self.world.calls[name]

    def _add(
        self, call: Call, items: list[api.FunctionPutInputsItem], kind: int
    ) -> list[api.FunctionPutInputsResponseItem]:
        added = []
        for item in items:
            one = Input(self.world.name("in"), call, len(call.inputs), item.input, kind)
            call.inputs.append(one)
            call.function.waiting.append(one)
            self.world.inputs[one.id] = one
            added.append(api.FunctionPutInputsResponseItem(idx=item.idx, input_id=one.id, input_jwt=one.id))
        return added

    # -- containers

    async def ContainerHello(self, request: Empty) -> Empty:
        self.asking().started_at = time.time()
        return Empty()

    async def ContainerHeartbeat(self, request: api.ContainerHeartbeatRequest) -> api.ContainerHeartbeatResponse:
        container = self.asking()
        await self.world.until(lambda: bool(container.cancelled), HEARTBEAT_SECONDS)
        names, container.cancelled = sorted(container.cancelled), set()
        if not names:
            return api.ContainerHeartbeatResponse()
        return api.ContainerHeartbeatResponse(cancel_input_event=api.CancelInputEvent(input_ids=names))

    async def FunctionGetInputs(self, request: api.FunctionGetInputsRequest) -> api.FunctionGetInputsResponse:
        container = self.asking()
        cluster = container.cluster
        mine = container.function.waiting if cluster is None or container.leads else cluster.broadcast[container.id]
        window = container.function.definition.autoscaler_settings.scaledown_window or 60
        container.idle_since = time.monotonic()
        if not await self.world.until(lambda: bool(mine) or container.stopping, min(window, POLL_SECONDS)):
            container.stopping = True
        if container.stopping:
            return api.FunctionGetInputsResponse(inputs=[api.FunctionGetInputsItem(kill_switch=True)])
        one = mine.pop(0)
        if cluster is not None and container.leads:
            for other in cluster.members[1:]:
                cluster.broadcast[other.id].append(one)
            await self.world.ring()
        container.idle_since = None
        container.working_on[one.id] = one
        self.world.note(f"{container.id} took {one.id}")
        item = api.FunctionGetInputsItem(
            input_id=one.id,
            input=one.input,
            function_call_id=one.call.id,
            function_call_invocation_type=api.FunctionCallInvocationType.ValueType(one.kind),
        )
        return api.FunctionGetInputsResponse(inputs=[item])

    async def FunctionPutOutputs(self, request: api.FunctionPutOutputsRequest) -> Empty:
        container = self.asking()
        for item in request.outputs:
            one = self.world.inputs[item.input_id]
            container.working_on.pop(one.id, None)
            if not container.leads:
                continue
            policy = container.function.definition.retry_policy
            if item.result.status == api.GenericResult.GENERIC_STATUS_FAILURE and one.failures < policy.retries:
                delay = policy.initial_delay_ms * policy.backoff_coefficient**one.failures
                one.failures += 1
                self.fleet.try_again(one, min(delay, policy.max_delay_ms or delay) / 1000)
                continue
            one.output = api.FunctionGetOutputsItem(
                result=item.result,
                idx=one.index,
                input_id=one.id,
                data_format=item.data_format,
                task_id=container.id,
            )
            one.call.answered.append(one)
        await self.world.ring()
        return Empty()

    async def TaskResult(self, request: api.TaskResultRequest) -> Empty:
        self.asking().failure = request.result
        return Empty()

    async def ContainerCheckpoint(self, request: api.ContainerCheckpointRequest) -> Empty:
        await self.fleet.checkpoint(self.asking())
        return Empty()
