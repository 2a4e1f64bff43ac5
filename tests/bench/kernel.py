"""A real Jupyter kernel, driven on its sockets so that the client itself takes next to no time."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import zmq
from jupyter_client.manager import KernelManager

from tests.bench.surroundings import child_environment

__all__ = ["Chunk", "Kernel", "Reply", "start_kernel", "wait_until_warm"]

LONGEST_CELL = 60.0
COLOURS = re.compile(r"\x1b\[[\d;]*m")
WARM = """\
import psutil as _psutil, select as _select
_zygotes = get_ipython().magics_manager.registry["ModalMagics"].resources.backend("local")._warm
print(all(
    _select.select([one.process.stdout], [], [], 0)[0] and _psutil.Process(one.process.pid).status() == "sleeping"
    for one in _zygotes
))
"""
"""A zygote that is ready has said so, which nobody has read yet, and has come to rest."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text that was new in a message: when it came (seconds since 1970), and to which stream, display or `error`."""

    at: float
    text: str
    origin: str = "stdout"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a cell did, as a client sees it. `seconds` is from sending it to the kernel's idle; `sent` since 1970."""

    sent: float
    seconds: float
    chunks: tuple[Chunk, ...]
    size: int
    """The bytes of text in all messages, also of text that came before."""

    @property
    def text(self) -> str:
        """All that was printed."""
        return "".join(chunk.text for chunk in self.chunks)

    def seconds_to(self, marker: str, count: int) -> float:
        """The time from sending the cell to the message with which the marker has come `count` times."""
        seen = 0
        for chunk in self.chunks:
            seen += chunk.text.count(marker)
            if seen >= count:
                return chunk.at - self.sent
        raise AssertionError(f"{marker!r} came {seen} of {count} times: {self.text[-500:]}")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A running kernel. Make one with `start_kernel`."""

    manager: KernelManager
    shell: zmq.Socket[bytes]
    iopub: zmq.Socket[bytes]
    pid: int

    def execute(self, source: str, patience: float = LONGEST_CELL, raises: bool = False) -> Reply:
        """Run a cell to its end. Raises AssertionError when it raises, or when it does not though it should."""
        return self.results([source], patience, raises)[0]

    def interrupt_during(self, source: str, marker: str, there: Callable[[], bool]) -> float:
        """Interrupt a cell that has printed a marker, once it is `there`. Returns the seconds to the kernel's idle."""
        until = time.monotonic() + LONGEST_CELL
        name, _ = self._send("execute_request", _execution(source))
        text = ""
        while marker not in text:
            message = self._receive(self.iopub, until)
            if message["parent_header"].get("msg_id") == name and message["msg_type"] == "stream":
                text += message["content"]["text"]
        while not there():
            if time.monotonic() > until:
                raise TimeoutError("the cell did not come to where it is to be interrupted")
        began = time.time()
        self.manager.interrupt_kernel()
        reply = self._follow(name, began, until, raises=True)
        self._receive(self.shell, until)
        return reply.seconds

    def results(self, sources: list[str], patience: float = LONGEST_CELL, raises: bool = False) -> list[Reply]:
        """Send several cells at once, as `Run All` does, and wait for the end of the last."""
        until = time.monotonic() + patience
        sent = [self._send("execute_request", _execution(source)) for source in sources]
        replies = [self._follow(name, at, until, raises) for name, at in sent]
        for _ in sources:
            self._receive(self.shell, until)
        return replies

    def _send(self, kind: str, content: dict[str, Any]) -> tuple[str, float]:
        message = self.manager.session.msg(kind, content)
        at = time.time()
        self.manager.session.send(self.shell, message)
        return str(message["header"]["msg_id"]), at

    def _receive(self, socket: zmq.Socket[bytes], until: float) -> dict[str, Any]:
        if not socket.poll(max(0, int((until - time.monotonic()) * 1000))):
            raise TimeoutError("the cell did not end in time")
        _, message = self.manager.session.recv(socket, zmq.DONTWAIT)
        assert message is not None
        return dict(message)

    def _follow(self, name: str, sent: float, until: float, raises: bool = False) -> Reply:
        chunks: list[Chunk] = []
        errors: list[str] = []
        displays: dict[str, str] = {}
        size = 0
        while True:
            message = self._receive(self.iopub, until)
            now = time.time()
            if message["parent_header"].get("msg_id") != name:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                chunks.append(Chunk(now, content["text"], content["name"]))
                size += len(content["text"].encode())
            elif kind in ("display_data", "update_display_data"):
                text, shown = str(content["data"].get("text/plain", "")), str(content["transient"].get("display_id"))
                chunks.append(Chunk(now, text.removeprefix(displays.get(shown, "")), shown))
                size += len(text.encode())
                displays[shown] = text
            elif kind == "error":
                errors += content["traceback"]
                chunks.append(Chunk(now, COLOURS.sub("", "\n".join(content["traceback"])), "error"))
            elif kind == "status" and content["execution_state"] == "idle":
                assert bool(errors) == raises, "\n".join(errors) or "the cell did not raise"
                return Reply(sent, now - sent, tuple(chunks), size)

    def wait_until_ready(self) -> None:
        """Return once the kernel answers, and its broadcasts are heard."""
        until = time.monotonic() + LONGEST_CELL
        heard = False
        while not heard:
            self._send("kernel_info_request", {})
            self._receive(self.shell, until)
            heard = bool(self.iopub.poll(100))
        while self.iopub.poll(100):
            self._receive(self.iopub, until)
        self.execute("pass")


def _execution(source: str) -> dict[str, Any]:
    return {
        "code": source,
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }


@contextlib.contextmanager
def start_kernel(*setup: str) -> Iterator[Kernel]:
    """A fresh kernel in which these cells have been run. Its sessions are stopped at the end."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=child_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        iopub, shell = manager.connect_iopub(), manager.connect_shell()
        iopub.setsockopt(zmq.RCVHWM, 0)
        with iopub, shell:
            kernel = Kernel(manager, shell, iopub, int(getattr(manager.provisioner, "pid", 0)))
            kernel.wait_until_ready()
            for source in setup:
                kernel.execute(source)
            yield kernel
            if "modal_magic" in kernel.execute("print([*get_ipython().extension_manager.loaded])").text:
                kernel.execute("%modal_stop --all\n%unload_ext modal_magic")
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def wait_until_warm(kernel: Kernel) -> None:
    """Return once the zygote of the next session has imported torch."""
    until = time.monotonic() + 30
    while "True" not in kernel.execute(WARM).text:
        if time.monotonic() > until:
            raise TimeoutError("the zygote did not become ready")
        time.sleep(0.2)
