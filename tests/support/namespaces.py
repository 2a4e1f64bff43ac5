"""Two hosts on one machine: network namespaces joined by a bridge, addressed as on i6pn (root on Linux)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from modal_magic.backends.local import Host


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def possible() -> bool:
    """Whether this process may make network namespaces. In CI it must: there a test fails where it cannot."""
    return bool(os.environ.get("CI")) or (os.name == "posix" and os.geteuid() == 0 and bool(shutil.which("ip")))


def set_link(host: Host, state: Literal["up", "down"]) -> None:
    """Plug or unplug the network cable of a host."""
    _ip("link", "set", f"{host.prefix[-1]}0", state)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two namespaces that reach each other, and this process, over IPv6 alone; removed at the end."""
    tag = f"mm{os.getpid() % 100_000}"
    names = [f"{tag}a", f"{tag}b"]
    network = f"fdaa:0:{os.getpid() % 0xFFFF + 1:x}"  # its own, for tests may run beside each other
    addresses = [f"{network}:1::2", f"{network}:2::2"]
    _ip("link", "add", tag, "type", "bridge")
    try:
        _ip("addr", "add", f"{network}::1/48", "dev", tag, "nodad")
        _ip("link", "set", tag, "up")
        for name, address in zip(names, addresses, strict=True):
            folder = Path("/etc/netns", name)
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(f"::1 localhost\n127.0.0.1 localhost\n{address} i6pn.modal.local\n")
            _ip("netns", "add", name)
            _ip("link", "add", f"{name}0", "type", "veth", "peer", "name", "eth1", "netns", name)
            _ip("link", "set", f"{name}0", "master", tag, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", f"{address}/48", "dev", "eth1", "nodad")
            _ip("-n", name, "link", "set", "eth1", "up")
        first, second = (
            Host(address, ("ip", "netns", "exec", name)) for name, address in zip(names, addresses, strict=True)
        )
        yield first, second
    finally:
        for name in names:
            subprocess.run(["ip", "link", "del", f"{name}0"], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)
        subprocess.run(["ip", "link", "del", tag], check=False, capture_output=True)
