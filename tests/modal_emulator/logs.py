"""What containers write, as Modal's client follows it: for an app, a function or one container."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from modal_proto import api_pb2 as api

from tests.modal_emulator.service import Room

__all__ = ["Logs"]

LOOK_SECONDS = 0.1


class Logs(Room):
    """See the module. An entry's id says how far the log of each container was told."""

    async def AppGetLogs(self, request: api.AppGetLogsRequest) -> AsyncIterator[api.TaskLogsBatch]:
        told: dict[str, int] = json.loads(request.last_entry_id or "{}")
        until = time.monotonic() + request.timeout
        while True:
            over = self._over(request)  # before the last look: what is written after that is of nobody
            for name, path in self._wanted(request).items():
                data = path.read_bytes()[told.get(name, 0) :]
                data = data[: data.rfind(b"\n") + 1]
                if data:
                    told[name] = told.get(name, 0) + len(data)
                    line = api.TaskLogs(
                        data=data.decode(errors="replace"),
                        file_descriptor=api.FILE_DESCRIPTOR_STDOUT,
                        timestamp=time.time(),
                    )
                    yield api.TaskLogsBatch(task_id=name, items=[line], entry_id=json.dumps(told))
            if over:
                yield api.TaskLogsBatch(app_done=True, entry_id=json.dumps(told))
                return
            if time.monotonic() > until:
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _wanted(self, request: api.AppGetLogsRequest) -> dict[str, Path]:
        """The logs that are asked for, by their containers."""
        return {
            one.id: path
            for one in self.world.started
            if request.app_id in ("", one.function.app.id)
            and request.function_id in ("", one.function.id)
            and request.task_id in ("", one.id)
            and (path := one.folder / "log").exists()
        }

    def _over(self, request: api.AppGetLogsRequest) -> bool:
        if request.task_id:
            return request.task_id not in self.world.containers
        app = self.world.apps.get(request.app_id)
        running = any(one.function.app is app for one in self.world.containers.values())
        return app is not None and app.state == api.APP_STATE_STOPPED and not running
