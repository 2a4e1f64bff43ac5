"""The bridge of a session as kernels hold it: started, and started again where it was lost. Loads no modal."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec

from modal_magic import registry
from modal_magic.backends.zygotes import import_path
from modal_magic.errors import SessionError

__all__ = ["start", "start_again"]

FILE = "bridge.json"
"""What is known of a bridge, in the folder of its session."""


class Bridge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bridge: its process with its `registry.birth`, its port, and the key of its session's meeting."""

    pid: int
    born: float
    port: int
    key: str


def start(session: str, key: str, port: int = 0) -> tuple[subprocess.Popen[bytes], int]:
    """Start the bridge of a session whose folder is there, at a port, or at a free one (0). Its process and its port.

    Raises SessionError when it does not come up, as where the port is taken.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "modal_magic.backends.modal_bridge", session, key, str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": import_path(os.environ)},
        start_new_session=True,  # it outlives its kernel, and Ctrl-C there
    )
    assert process.stdout is not None
    with process.stdout as said:
        line = said.readline()
    if not line:
        raise SessionError(f"the bridge to the gateway did not start: exit code {process.wait()}")
    made = Bridge(process.pid, registry.birth(process.pid) or 0.0, int(line), key)
    (registry.folder_of(session) / FILE).write_bytes(msgspec.json.encode(made))
    return process, made.port


def start_again(session: str) -> subprocess.Popen[bytes] | None:
    """Start the bridge of a session again if it has one that is gone; its links then find it where it was.

    None where there was nothing to do, and where it does not come up: another kernel may have been the first.
    """
    try:
        known = msgspec.json.decode((registry.folder_of(session) / FILE).read_bytes(), type=Bridge)
        if registry.lives(known.pid, known.born):
            return None
        return start(session, known.key, known.port)[0]
    except (OSError, msgspec.MsgspecError, SessionError):
        return None
