"""`python -m tests.modal_emulator`: serve until stdin ends.

The first line of stdout is the address for MODAL_SERVER_URL.
Lines on stdin are wishes of a test, as JSON; each is answered by one line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from grpclib.server import Server
from modal_proto.api_grpc import ModalClientBase

from tests.modal_emulator import network
from tests.modal_emulator.apps import Apps
from tests.modal_emulator.blobs import Blobs, Warehouse
from tests.modal_emulator.calls import Calls
from tests.modal_emulator.clusters import Clusters
from tests.modal_emulator.containers import Fleet
from tests.modal_emulator.files import Files, Library
from tests.modal_emulator.functions import Functions
from tests.modal_emulator.logs import Logs
from tests.modal_emulator.service import service_of
from tests.modal_emulator.stores import Shelf, Stores
from tests.modal_emulator.tunnels import Tunnels
from tests.modal_emulator.volumes import Volumes
from tests.modal_emulator.world import Container, Function, World


class Emulator:
    """The world, its containers, and the service in front of them. A class because containers must end."""

    def __init__(self, folder: Path, tag: str | None) -> None:
        self.world = World(folder)
        self.library = Library()
        self.shelf = Shelf()
        self.warehouse = Warehouse()
        self.fleet = Fleet(self.world, self.library, self.warehouse, tag, self.serve)

    def serve(self, container: Container | None) -> ModalClientBase:
        """The service as one container, or a client (None), finds it."""
        world = self.world
        return service_of(
            [
                Apps(world, container, self.fleet.stop),
                Functions(world, container),
                Calls(world, container, self.fleet),
                Clusters(world, container),
                Stores(world, container, self.shelf),
                Files(world, container, self.library),
                Blobs(world, container, self.warehouse),
                Logs(world, container),
                Tunnels(world, container),
                Volumes(world, container, self.shelf),
            ]
        )

    async def wish(self, wish: dict[str, Any]) -> object:
        """Do what a test asks for, or tell it what it asks about."""
        match wish["do"]:
            case "containers":
                return [self._told(one) for one in self.world.containers.values()]
            case "certificate":
                return (self.world.folder / "certificate.pem").read_text()
            case "history":
                return self.world.history
            case "queued":
                return {one.name: len(one.waiting) for one in self.world.functions.values() if one.waiting}
            case "started":
                return sum(one.started for one in self.world.functions.values() if one.name == f"{wish['name']}.*")
            case "definitions":
                app = self.world.app_named(wish["app"])
                assert app is not None
                return {name: defined(self.world, self.world.functions[id]) for name, id in app.functions.items()}
            case "layers":
                app = self.world.app_named(wish["app"])
                assert app is not None
                return self.library.layers(self.world.functions[app.functions["Node.*"]].definition.image_id)
            case "set":
                for name, value in wish["settings"].items():
                    setattr(self.world.settings, name, value)
                await self.fleet.look()
                return True
            case "link":
                namespace = self.world.containers[wish["container"]].namespace
                assert namespace is not None
                network.plug(namespace, wish["state"])
                return True
            case "interrupt" | "kill" as verb:
                container = self.world.containers[wish["container"]]
                (self.fleet.interrupt if verb == "interrupt" else self.fleet.kill)(container)
                return True
            case _:
                return {"error": f"no such wish: {wish}"}

    def _told(self, one: Container) -> dict[str, object]:
        return {
            "id": one.id,
            "app": one.function.app.name,
            "class": one.function.name.removesuffix(".*"),
            "pid": one.process.pid if one.process else None,
            "address": one.namespace.address if one.namespace else "",
            "checkpointed": one.checkpointed,
            "rank": one.cluster.members.index(one) if one.cluster else None,
            "log": str(one.folder / "log"),
        }


def defined(world: World, function: Function) -> dict[str, object]:
    """What a function was defined to be, in the words of its options."""
    first = function.definition
    return {
        "gpus": [f"{one.gpu_type}:{one.count}" for one in function.gpus if one.gpu_type],
        "milli_cpu": first.resources.milli_cpu,
        "memory_mb": first.resources.memory_mb,
        "regions": list(first.scheduler_placement.regions),
        "nonpreemptible": first.scheduler_placement.nonpreemptible,
        "cloud": first.cloud_provider_str,
        "i6pn": first.i6pn_enabled,
        "snapshot": first.checkpointing_enabled,
        "cluster": first._experimental_group_size,
        "rdma": first.resources.rdma,
        "ephemeral_disk_mb": first.resources.ephemeral_disk_mb,
        "experiments": dict(first.experimental_options),
        "secrets": [dict(world.secrets[id]) for id in first.secret_ids],
        "least": first.autoscaler_settings.min_containers,
        "startup_timeout": first.startup_timeout_secs,
        "scaledown": first.autoscaler_settings.scaledown_window,
        "timeout": first.timeout_secs,
        "volumes": [mount.mount_path for mount in first.volume_mounts],
        "buckets": {mount.bucket_name: mount.mount_path for mount in first.cloud_bucket_mounts},
    }


async def main(namespaces: bool) -> None:
    """Serve until stdin ends."""
    tag = f"em{os.getpid()}" if namespaces else None
    if tag:
        network.start(tag)
    with tempfile.TemporaryDirectory(prefix="emulator-") as folder:
        emulator = Emulator(Path(folder), tag)
        await emulator.warehouse.open()
        server = Server([emulator.serve(None)])
        await server.start("127.0.0.1", 0)
        assert server._server is not None and server._server.sockets is not None
        print(f"http://127.0.0.1:{server._server.sockets[0].getsockname()[1]}", flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        try:
            while line := await reader.readline():
                try:
                    answer = await emulator.wish(json.loads(line))
                except Exception as error:  # the test is told, and the emulator goes on
                    answer = {"error": repr(error)}
                print(json.dumps(answer), flush=True)
        finally:
            server.close()
            await emulator.fleet.close()
            await emulator.warehouse.close()
            if tag:
                network.stop(tag)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.modal_emulator", description=__doc__)
    parser.add_argument("--no-namespaces", action="store_true", help="containers share this machine's network")
    asyncio.run(main(not parser.parse_args().no_namespaces))
