"""The bridge of a session as kernels hold it: started, and started again where it was lost. Loads no modal."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import msgspec

from modal_magic import registry
from modal_magic.backends.zygotes import import_path
from modal_magic.errors import SessionError, UsageError

__all__ = ["start", "start_again"]

OTHER_SECONDS = 0.5
"""How long another kernel may take from having started a bridge to having written that down."""
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

    Where another program has taken its port it is at another one, which the connection file then has. None where there
    was nothing to do, and where it does not come up.
    """
    try:
        lost = _lost(session)
        return None if lost is None else start(session, lost.key, lost.port)[0]
    except SessionError:
        time.sleep(OTHER_SECONDS)
    except (OSError, msgspec.MsgspecError):
        return None
    try:
        lost = _lost(session)
        if lost is None:  # another kernel was the first
            return None
        process, port = start(session, lost.key)
        registry.publish(msgspec.structs.replace(registry.read(session), port=port))
        return process
    except (OSError, msgspec.MsgspecError, SessionError, UsageError):
        return None


def _lost(session: str) -> Bridge | None:
    """The bridge of a session if that is gone."""
    known = msgspec.json.decode((registry.folder_of(session) / FILE).read_bytes(), type=Bridge)
    return None if registry.lives(known.pid, known.born) else known
