"""No name server is asked for the names of addresses while torch makes connections (glibc; elsewhere nothing is done).

torch 2.13 wants the name of the other end of each connection to its store, for its log, on both sides. That of
::ffff:127.0.0.1 stands in no file, and one question whose answer is lost costs 5 s, in which no signal is heard.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

__all__ = ["ask_as_configured", "ask_files_alone"]

CONFIGURATION = Path("/etc/nsswitch.conf")
USUAL = "files dns"
"""Where names are looked up if nothing is configured."""


def ask_files_alone() -> None:
    """Have all threads of this process look up names in /etc/hosts alone. Not for longer than needed."""
    _look_up_in("files")


def ask_as_configured() -> None:
    """Have them look up names as this system is configured to."""
    found = None
    with contextlib.suppress(OSError):
        found = re.search(r"^hosts:\s*([^#\n]+)", CONFIGURATION.read_text(), re.MULTILINE)
    _look_up_in(found[1].strip() if found else USUAL)


def _look_up_in(places: str) -> None:
    with contextlib.suppress(AttributeError):
        getattr(ctypes.CDLL(None), "__nss_configure_lookup")(b"hosts", places.encode())
