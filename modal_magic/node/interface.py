"""Which network interface carries an address, and the variables that make gloo and NCCL use it."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

__all__ = ["interface_of", "network_environment"]

SIOCGIFADDR = 0x8915


def interface_of(address: str) -> str:
    """The name of the interface that has this address; empty where it cannot be found out."""
    wanted = ipaddress.ip_address(address)
    if wanted.version == 6:
        table = Path("/proc/net/if_inet6")
        rows = table.read_text().splitlines() if table.exists() else []
        return next((row.split()[-1] for row in rows if row.split()[0] == wanted.packed.hex()), "")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name[:15].encode())
            try:
                found = fcntl.ioctl(probe, SIOCGIFADDR, request)[20:24]
            except OSError:  # an interface without an IPv4 address
                continue
            if found == wanted.packed:
                return name
    return ""


def network_environment(address: str) -> dict[str, str]:
    """What torch's transports must be told so that ranks meet over `address`.

    Without it gloo takes what the host's name resolves to, which hangs where that is not the nodes' network.
    """
    name = interface_of(address)
    found = {variable: name for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME") if name}
    if ":" in address:
        found["NCCL_SOCKET_FAMILY"] = "AF_INET6"
    return found
