"""Memory snapshots that are real: a container is dumped by CRIU while it waits to be restored, and others are that.

A container that is restored finds its own files where the one that was dumped had them: in its mount namespace its
folder is there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.modal_emulator.network import Namespace

__all__ = ["dump", "entrypoint", "lay_out", "restore", "usable"]

LEAST_VERSION = 4
COMMON = ["--manage-cgroups=ignore", "-v2"]


def usable() -> bool:
    """Whether CRIU is here, and new enough for this kernel."""
    if os.name == "nt" or os.geteuid() != 0 or shutil.which("criu") is None:
        return False
    told = subprocess.run(["criu", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"Version: (\d+)", told)
    return found is not None and int(found[1]) >= LEAST_VERSION


def dump(pid: int, folder: Path, into: Path) -> None:
    """Dump a container with its folder; it goes on. Raises CalledProcessError where that cannot be done."""
    (into / "images").mkdir(parents=True)
    inside = ["nsenter", "-t", str(pid), "-m", "-n"]
    command = ["criu", "dump", "-t", str(pid), "-D", str(into / "images"), "--leave-running", "-o", "dump.log", *COMMON]
    subprocess.run([*inside, *command], check=True, capture_output=True)
    shutil.copytree(folder, into / "folder", ignore=shutil.ignore_patterns("modal.sock"))


def lay_out(dumped: Path, folder: Path) -> None:
    """Have the files in a container's folder that the dumped one had."""
    shutil.copytree(dumped / "folder", folder, dirs_exist_ok=True)


def restore(dumped: Path, namespace: Namespace, folder: Path, first: Path) -> list[str]:
    """The command that is a container restored from a dump, whose folder takes the place of the `first` one's."""
    command = ["criu", "restore", "-D", str(dumped / "images"), "-o", str(folder / "restore.log"), *COMMON]
    script = 'mount --bind "$0" "$1" && shift && exec "$@"'
    there = ["sh", "-c", script, str(folder), str(first), *command]
    return ["ip", "netns", "exec", namespace.name, "unshare", "--pid", "--fork", "--mount-proc", *there]


def entrypoint(pids: list[int]) -> int | None:
    """The one of a container's processes that Modal talks to."""
    for pid in pids:
        try:
            if b"modal._container_entrypoint" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except OSError:
            continue
    return None
