"""A real Jupyter kernel, driven as a notebook would: cells in, what they showed and when out."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager


@dataclass(slots=True)
class Shown:
    """What a cell showed. `at` has the seconds from sending to each message; `seconds` those to idle."""

    stdout: str = ""
    stderr: str = ""
    error: str = ""
    error_name: str = ""
    traceback: str = ""
    displays: list[dict[str, Any]] = field(default_factory=list)
    at: list[tuple[float, str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def lines(self) -> list[str]:
        """The lines of stdout, sorted: ranks print in any order."""
        return sorted(self.stdout.splitlines())

    def when(self, text: str) -> float:
        """When a message with this text came, in seconds since the cell was sent."""
        return next(moment for moment, _, content in self.at if text in content)


class Notebook:
    """A kernel and its client."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def send(self, source: str) -> str:
        """Send a cell without waiting. Returns the id of its message."""
        return str(self.client.execute(source, allow_stdin=False))

    def run(self, source: str, timeout: float = 100.0) -> Shown:
        """Run a cell and return what it showed, also when it raised."""
        began = time.monotonic()
        return self.collect(self.send(source), began, timeout)

    def collect(self, sent: str, began: float, timeout: float = 100.0) -> Shown:
        """Wait until the kernel is idle after a cell that was sent."""
        shown = Shown()
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, began + timeout - time.monotonic()))
            if message["parent_header"].get("msg_id") != sent:
                continue
            self.take(shown, message, time.monotonic() - began)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                shown.seconds = time.monotonic() - began
                self.reply(sent)
                return shown

    def reply(self, sent: str) -> dict[str, Any]:
        """What the kernel answers to a cell; older answers that nobody took are passed over."""
        while True:
            message: dict[str, Any] = self.client.get_shell_msg(timeout=60)
            if message["parent_header"].get("msg_id") == sent:
                return message["content"]

    def wait_for(self, sent: str, text: str, began: float, timeout: float = 100.0) -> Shown:
        """Wait until a cell that was sent has shown this text."""
        shown = Shown()
        while text not in shown.stdout + shown.stderr:
            message = self.client.get_iopub_msg(timeout=max(0.1, began + timeout - time.monotonic()))
            if message["parent_header"].get("msg_id") == sent:
                self.take(shown, message, time.monotonic() - began)
        return shown

    @staticmethod
    def take(shown: Shown, message: dict[str, Any], moment: float) -> None:
        """Add one message of the kernel to what a cell showed."""
        content = message["content"]
        match message["msg_type"]:
            case "stream" if content["name"] == "stdout":
                shown.stdout += content["text"]
                shown.at.append((moment, "stdout", content["text"]))
            case "stream":
                shown.stderr += content["text"]
                shown.at.append((moment, "stderr", content["text"]))
            case "display_data" | "execute_result" | "update_display_data":
                shown.displays.append(content["data"])
                shown.at.append((moment, "display", str(content["data"].get("text/plain", ""))))
            case "error":
                shown.error_name, shown.error = content["ename"], content["evalue"]
                shown.traceback = "\n".join(content["traceback"])
                shown.at.append((moment, "error", shown.traceback))


@contextmanager
def notebook(file: str = "") -> Iterator[Notebook]:
    """A fresh kernel, shut down at the end as a notebook's menu would. `file` is the notebook that its server names."""
    # Without a folder of its own the kernel's sockets lie in ours, where another process of tests makes its own.
    folder = tempfile.TemporaryDirectory(prefix="kernel-")
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=f"{folder.name}/ipc")
    manager.start_kernel(env={**os.environ, "JPY_SESSION_NAME": file})
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield Notebook(manager, client)
    finally:
        client.stop_channels()
        if manager.has_kernel:
            manager.shutdown_kernel(now=False)
        manager.cleanup_resources()
        folder.cleanup()
