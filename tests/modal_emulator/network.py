"""The network of the containers: namespaces with addresses and names as on i6pn (root on Linux).

Those of a region are on one bridge, and no bridge leads to another.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Namespace",
    "add",
    "bridge",
    "connect_inside",
    "listen_inside",
    "plug",
    "processes",
    "remove",
    "start",
    "stop",
]

PREFIX = "fdaa:0:2"
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace and its address on i6pn."""

    name: str
    address: str


def _ip(*words: str, check: bool = True) -> str:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True).stdout


def start(tag: str) -> None:
    """Take away what emulators have left that were killed."""
    there = [line.split()[0] for line in _ip("netns", "list", check=False).splitlines()]
    there += [path.name for path in Path("/sys/class/net").iterdir()]
    for found in {match[1] for name in there if (match := re.match(r"(em\d+)[nr]\d", name))}:
        if not Path("/proc", found[2:]).exists():
            stop(found)


def bridge(tag: str, number: int) -> str:
    """The bridge of a region. It has no address: nothing outside the containers is on their network."""
    name = f"{tag}r{number}"
    if not Path("/sys/class/net", name).exists():
        _ip("link", "add", name, "type", "bridge")
        _ip("link", "set", name, "up")
    return name


def add(tag: str, number: int, bridge: str) -> Namespace:
    """A new namespace on a bridge, where `i6pn.modal.local` is the namespace itself, as in Modal's containers."""
    made = Namespace(f"{tag}n{number}", f"{PREFIX}:{number:x}::2")
    folder = Path("/etc/netns", made.name)
    folder.mkdir(parents=True)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{made.address} i6pn.modal.local\n")
    _ip("netns", "add", made.name)
    try:
        _ip("link", "add", f"{made.name}v", "type", "veth", "peer", "name", "eth1", "netns", made.name)
        _ip("link", "set", f"{made.name}v", "master", bridge, "up")
        _ip("-n", made.name, "link", "set", "lo", "up")
        _ip("-n", made.name, "addr", "add", f"{made.address}/48", "dev", "eth1", "nodad")
        _ip("-n", made.name, "link", "set", "eth1", "up")
    except subprocess.CalledProcessError:
        remove(made)
        raise
    return made


def plug(namespace: Namespace, state: str) -> None:
    """Plug (`up`) or unplug (`down`) the cable of a namespace."""
    _ip("link", "set", f"{namespace.name}v", state)


def processes(namespace: Namespace) -> list[int]:
    """The processes in a namespace."""
    return [int(pid) for pid in _ip("netns", "pids", namespace.name, check=False).split()]


def remove(namespace: Namespace) -> None:
    """Take a namespace away; its end of the cable goes with it."""
    _ip("netns", "del", namespace.name, check=False)
    shutil.rmtree(Path("/etc/netns", namespace.name), ignore_errors=True)


def stop(tag: str) -> None:
    """Take the bridges away, and namespaces that are still there."""
    for line in _ip("netns", "list", check=False).splitlines():
        if line.split()[0].startswith(f"{tag}n"):
            remove(Namespace(line.split()[0], ""))
    for path in Path("/sys/class/net").glob(f"{tag}r*"):
        _ip("link", "del", path.name, check=False)


def connect_inside(namespace: Namespace | None, port: int) -> socket.socket:
    """A connection to a port of a container's own loopback. Raises OSError when nobody listens there."""
    if namespace is None:
        return socket.create_connection(("127.0.0.1", port))
    return _inside(namespace, lambda: socket.create_connection(("127.0.0.1", port)))


def listen_inside(namespace: Namespace, port: int) -> socket.socket:
    """A server at a port of a container's own loopback. Raises OSError where it cannot be."""
    return _inside(namespace, lambda: socket.create_server(("127.0.0.1", port)))


def _inside(namespace: Namespace, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket made in a namespace. Threads can be in namespaces of their own: one goes in, makes it, and ends."""
    found: list[socket.socket | OSError] = []

    def go() -> None:
        descriptor = os.open(f"/run/netns/{namespace.name}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            found.append(make())
        except OSError as error:
            found.append(error)
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]
