"""How a process is made: forked from the zygote where that is safe, and spawned where it is not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from modal_magic.node import born
from modal_magic.protocol import encode
from modal_magic.specs import AgentSpec, GatewaySpec, WorkerSpec

__all__ = ["bear"]

BIRTH = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from modal_magic.node.born import main
main()
"""
"""What a spawned process does first: it takes on the import path that a forked one has, the kernel's."""

Spec = GatewaySpec | AgentSpec | WorkerSpec


def unsafe_to_fork() -> str:
    """Why a fork of this process would not be safe; empty when it is."""
    if sys.platform != "linux":
        return f"{sys.platform} does not allow a safe fork once torch is imported"
    if len(os.listdir("/proc/self/task")) != 1 or threading.active_count() != 1:
        return "a preimported module has started a thread"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "a preimported module has initialised CUDA"
    return ""


def bear(kind: str, spec: Spec, descriptors: list[int], leave: Callable[[], None]) -> tuple[int, str]:
    """Make a process that is a `kind`, by a fork where that is safe. Returns its pid, and a warning where it is not.

    These descriptors become its own, all others are closed in it; `leave` lets go of what objects hold of those.
    """
    reason = unsafe_to_fork()
    if reason:
        return spawn(kind, spec, descriptors), f"{reason}: this rank was started without the fast path"
    pid = os.fork()
    if pid:
        return pid, ""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        leave()
        keep = {0, 1, 2, *descriptors}
        for entry in os.listdir("/proc/self/fd"):
            if int(entry) not in keep:
                with contextlib.suppress(OSError):
                    os.close(int(entry))
        born.become(kind, encode(spec), descriptors)
    finally:
        os._exit(70)  # never back into the zygote's own loop


def spawn(kind: str, spec: Spec, descriptors: list[int]) -> int:
    """Make a process from scratch: slower, and always safe."""
    outgoing, incoming = os.pipe()
    command = [sys.executable, "-c", BIRTH, json.dumps(sys.path), kind, str(outgoing), *map(str, descriptors)]
    process = subprocess.Popen(command, pass_fds=[outgoing, *descriptors])
    process.returncode = 0  # it is reaped here with all others, not by subprocess
    os.close(outgoing)
    with os.fdopen(incoming, "wb") as pipe:
        pipe.write(encode(spec))
    return process.pid
