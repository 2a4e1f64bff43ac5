"""Containers: started where inputs wait, checkpointed, preempted, and ended with all that they had started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from grpclib.server import Server
from modal_proto import api_pb2 as api
from modal_proto.api_grpc import ModalClientBase

from tests.modal_emulator import dumps, network
from tests.modal_emulator.apps import layout_of
from tests.modal_emulator.blobs import Warehouse
from tests.modal_emulator.files import Library
from tests.modal_emulator.network import Namespace
from tests.modal_emulator.world import Cluster, Container, Function, Input, World

__all__ = ["Fleet"]

GRACE_SECONDS = 5.0
"""How long a container that is stopped has for its exit hooks. On Modal it is longer."""
RESTORE_SECONDS = 0.05
ANYWHERE = ("us-east-1", "eu-west-1")
CONTAINERS_LOST = 8
"""An input that so many containers were lost over is given up."""


class Fleet:
    """The containers of the emulator. `serve` makes the service that one of them talks to. A class: they must end."""

    def __init__(
        self,
        world: World,
        library: Library,
        warehouse: Warehouse,
        tag: str | None,
        serve: Callable[[Container], ModalClientBase],
    ) -> None:
        self.world = world
        self.library = library
        self.warehouse = warehouse
        self.tag = tag
        self.serve = serve
        self.tasks: set[asyncio.Task[None]] = set()
        self.closing = False
        self.regions: list[str] = []

    # -- scheduling

    async def look(self) -> None:
        """Start containers for the inputs that nobody works on."""
        if self.closing:
            return
        for function in self.world.functions.values():
            mine = [one for one in self.world.containers.values() if one.function is function and not one.stopping]
            size = max(1, function.definition._experimental_group_size)
            ready = sum(not one.working_on and one.leads for one in mine)
            limit = function.definition.autoscaler_settings.max_containers or len(mine) + size * len(function.waiting)
            for _ in range(min(len(function.waiting) - ready, (limit - len(mine)) // size)):
                name = function.name.removesuffix(".*")
                held = self.world.settings.held.get(name)
                started = sum(one.started for one in self.world.functions.values() if one.name == function.name)
                if held is not None and started >= held:
                    break
                cluster = self._cluster() if function.definition._experimental_group_size else None
                for _ in range(size):
                    function.started += 1
                    container = self._make(function, cluster)
                    self.world.containers[container.id] = container  # at once: the next look must count it
                    self.world.started.append(container)
                    self._spawn(self._run(container))
        await self.world.ring()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # -- a container's life

    async def _run(self, container: Container) -> None:
        self.world.note(f"{container.id} started for {container.function.name}")
        listener = Server([self.serve(container)])
        await listener.start(path=str(container.folder / "modal.sock"))
        blobs = None
        try:
            await asyncio.sleep(self.world.settings.delays.get(container.function.name.removesuffix(".*"), 0.0))
            if self.tag is not None:
                number = int(container.id.split("-")[1])
                bridge = network.bridge(self.tag, self._region(container, number))
                container.namespace = await asyncio.to_thread(network.add, self.tag, number, bridge)
                blobs = await self.warehouse.open_inside(container.namespace)
            await self._live(container)
        except (OSError, subprocess.CalledProcessError) as error:  # no other would start either
            container.failure = api.GenericResult(
                status=api.GenericResult.GENERIC_STATUS_INTERNAL_FAILURE, exception=repr(error)
            )
        finally:
            if blobs is not None:
                await blobs.stop()
            self._bury(container)
            listener.close()
            await listener.wait_closed()
            await self.look()

    def _region(self, container: Container, number: int) -> int:
        """Place a container, and number its region. One that may be anywhere is now here and now there."""
        wanted = list(container.function.definition.scheduler_placement.regions)
        container.region = wanted[0] if wanted else ANYWHERE[number % len(ANYWHERE)]
        if container.region not in self.regions:
            self.regions.append(container.region)
        return self.regions.index(container.region)

    def _cluster(self) -> Cluster:
        made = Cluster(self.world.name("cu"))
        self.world.clusters[made.id] = made
        return made

    def _make(self, function: Function, cluster: Cluster | None) -> Container:
        id = self.world.name("ta")
        folder = self.world.folder / id
        for name in ("root", "tmp"):
            (folder / name).mkdir(parents=True)
        made = Container(id, function, folder, None, time.time(), cluster)
        if cluster is not None:
            cluster.members.append(made)
        return made

    async def _live(self, container: Container) -> None:
        definition = api.Function()
        definition.CopyFrom(container.function.definition)
        definition.is_checkpointing_function = definition.checkpointing_enabled and not container.function.without
        container.function.without = max(0, container.function.without - 1)
        # The memory of a restored container is that of the one that made the snapshot, which is told where it is now.
        # Here each builds it anew, as if it were that one.
        restored = container.function.snapshot if definition.is_checkpointing_function else ""
        built_in = restored or container.id
        arguments = api.ContainerArguments(
            task_id=built_in,
            function_id=container.function.id,
            app_id=container.function.app.id,
            function_def=definition,
            serialized_params=container.function.bound.serialized_params,
            environment_name="main",
            checkpoint_id=f"cp-{built_in[3:]}" if definition.is_checkpointing_function else "",
            app_layout=layout_of(self.world, container.function.app),
        )
        (container.folder / "arguments").write_bytes(arguments.SerializeToString())
        self.library.lay_out(list(definition.mount_ids), container.folder / "root")
        if container.function.dumped is not None and container.namespace is not None:
            command = self._restored(container, container.namespace, container.function.dumped)
        else:
            prefix = ["ip", "netns", "exec", container.namespace.name] if container.namespace else []
            # What is open must be of the container's own mount namespace, or it could not be dumped.
            inside = ["sh", "-c", 'exec "$@" < /dev/null >> "$0" 2>&1', str(container.folder / "log")]
            command = [*prefix, *inside, sys.executable, "-m", "modal._container_entrypoint"]
        with (container.folder / "log").open("wb") as log:
            container.process = await asyncio.create_subprocess_exec(
                *command,
                cwd=container.folder / "root",
                env=self._environment(container, definition, built_in),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        code = await container.process.wait()
        self.world.note(f"{container.id} ended with {code}")

    def _restored(self, container: Container, namespace: Namespace, dumped: Path) -> list[str]:
        """What starts a container from the memory of another one of its function."""
        function = container.function
        dumps.lay_out(dumped, container.folder)
        self._tell_restored(container)
        container.checkpointed = True
        self.world.note(f"{container.id} was restored from {function.snapshot}")
        return dumps.restore(dumped, namespace, container.folder, self.world.folder / function.snapshot)

    def _environment(self, container: Container, definition: api.Function, built_in: str) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("MODAL_") or key == "MODAL_MAGIC_RUNTIME_DIR"
        }
        own = {
            "MODAL_SERVER_URL": container.url,
            "MODAL_TASK_ID": built_in,
            "MODAL_IS_REMOTE": "1",
            "MODAL_CONTAINER_ARGUMENTS_PATH": str(container.folder / "arguments"),
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_AWS",
            "MODAL_REGION": container.region,
            "MODAL_ENVIRONMENT": "main",
            "MODAL_IMAGE_ID": definition.image_id,
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(container.folder / "root"),
            "TMPDIR": str(container.folder / "tmp"),
        }
        if definition.is_checkpointing_function:
            own["MODAL_ENABLE_SNAP_RESTORE"] = "1"
            own["MODAL_RESTORE_STATE_PATH"] = str(container.folder / "restore.json")
        secrets = [self.world.secrets[id] for id in definition.secret_ids]
        return {**kept, **{name: value for secret in secrets for name, value in secret.items()}, **own}

    def _bury(self, container: Container) -> None:
        """End what a container has left, and hand its inputs to another; after a failure or a cancel, end these too."""
        self.kill(container)
        for server in container.tunnels.values():
            server.close()
        if container.namespace is not None:
            network.remove(container.namespace)
        self.world.containers.pop(container.id, None)
        shutil.rmtree(container.folder / "tmp", ignore_errors=True)
        if container.cluster is not None and any(one.output is None for one in container.working_on.values()):
            for other in container.cluster.members:  # a cluster is lost as a whole
                self.kill(other)
        stopped = container.function.app.state == api.APP_STATE_STOPPED
        for one in container.working_on.values():
            if one.output is not None:
                continue
            if not container.leads:
                continue  # the first of the cluster hands it on, when it is gone too
            one.containers_lost += 1
            if one.call.cancelled or stopped or one.containers_lost >= CONTAINERS_LOST:
                self.give_up(one)
            else:
                container.function.waiting.append(one)
        if container.failure is not None:  # it could not start: neither could another
            for one in list(container.function.waiting):
                container.function.waiting.remove(one)
                self.give_up(one, container.failure)

    def _processes(self, container: Container) -> list[int]:
        if container.namespace is not None:
            return network.processes(container.namespace)
        mark = f"MODAL_SERVER_URL={container.url}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    # -- what is done to containers

    def try_again(self, one: Input, seconds: float) -> None:
        """Put an input that has failed back into the queue of its function, after its delay."""

        async def later() -> None:
            await asyncio.sleep(seconds)
            one.call.function.waiting.append(one)
            await self.look()

        self._spawn(later())

    def give_up(self, one: Input, result: api.GenericResult | None = None) -> None:
        """An input gets no answer of a container: it was cancelled, or its container cannot start."""
        terminated = api.GenericResult(status=api.GenericResult.GENERIC_STATUS_TERMINATED, exception="cancelled")
        one.output = api.FunctionGetOutputsItem(
            result=result or terminated, idx=one.index, input_id=one.id, data_format=api.DATA_FORMAT_PICKLE
        )
        one.call.answered.append(one)

    def stop(self, container: Container) -> None:
        """End a container: it is told, and killed when it does not end by itself."""
        if not container.stopping:
            container.stopping = True
            self._spawn(self._stop(container))

    async def _stop(self, container: Container) -> None:
        await self.world.ring()
        process = container.process
        if process is None:
            return
        if container.idle_since is None:
            self.interrupt(container)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE_SECONDS)
        self.kill(container)

    def interrupt(self, container: Container) -> None:
        """What a preemption begins with."""
        if container.process is not None and container.process.returncode is None:
            # In a namespace of its own it is a child of who has restored it.
            pid = dumps.entrypoint(self._processes(container)) or container.process.pid
            os.kill(pid, signal.SIGINT)

    def kill(self, container: Container) -> None:
        """Take a container away from one moment to the next."""
        for pid in self._processes(container):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def checkpoint(self, container: Container) -> None:
        """Have a container go on as one does that was restored: from its own snapshot, or from its function's."""
        container.checkpointed = True
        if not container.function.snapshot:
            container.function.snapshot = container.id
            self.world.note(f"{container.id} was checkpointed")
        else:
            self.world.note(f"{container.id} was restored from {container.function.snapshot}")

        async def restore() -> None:
            await asyncio.sleep(RESTORE_SECONDS)  # it drops its connections first
            if container.function.on_gpu and self.world.settings.gpu_restore != "works":
                self._fail_to_restore(container)
                return
            if self.world.settings.snapshot == "childless" and container.process is not None:
                for pid in self._processes(container):
                    if pid != container.process.pid:
                        os.kill(pid, signal.SIGKILL)
            if self.world.settings.snapshot == "dump" and container.function.snapshot == container.id:
                await self._dump(container)
            self._tell_restored(container)

        self._spawn(restore())

    async def _dump(self, container: Container) -> None:
        """Keep the memory of a container for the next ones of its function."""
        assert container.process is not None
        into = self.world.folder / f"dump-{container.id}"
        try:
            await asyncio.to_thread(dumps.dump, container.process.pid, container.folder, into)
        except subprocess.CalledProcessError as error:
            self.world.note(f"{container.id} could not be dumped: {error.stderr!r}")
            return
        container.function.dumped = into

    def _tell_restored(self, container: Container) -> None:
        """Write what a container waits for after its snapshot: who it is now."""
        state = {"task_id": container.id, "function_id": container.function.id}
        temporary = container.folder / "restore.tmp"
        temporary.write_text(json.dumps(state))
        temporary.rename(container.folder / "restore.json")

    def _fail_to_restore(self, container: Container) -> None:
        """What becomes of a container whose GPU's memory cannot be restored. Its snapshot is not used again."""
        fails = self.world.settings.gpu_restore == "fails"
        container.function.snapshot = ""
        container.function.without += fails
        self.world.note(f"{container.id} could not be restored: {'exit code 222' if fails else 'segmentation fault'}")
        self.kill(container)

    async def close(self) -> None:
        """End every container, those too that are only starting."""
        self.closing = True
        while self.tasks:
            for container in self.world.containers.values():
                self.kill(container)
            await asyncio.wait(self.tasks, timeout=0.2)
