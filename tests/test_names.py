"""Who asks a name server, in a network namespace whose name server counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.namespaces import possible, two_hosts

ASKING = """
import contextlib, socket
import torch.distributed
from modal_magic.frameworks.store import gather_ranks, open_store, reach_store

asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asked.bind(("127.0.0.1", 53))
asked.setblocking(False)


def count():
    questions = 0
    with contextlib.suppress(BlockingIOError):
        while asked.recv(1024):
            questions += 1
    return questions


with open_store("127.0.0.1", "session") as served:
    store = reach_store(served, "prefix")
    gather_ranks(store, 1, lambda: False)
    meanwhile = count()
with contextlib.suppress(OSError):
    socket.getnameinfo(("::ffff:127.0.0.1", 80), 0)
print(meanwhile, count() > 0)
"""


@pytest.mark.skipif(not possible(), reason="network namespaces need root on Linux")
def test_a_rank_that_reaches_its_store_asks_no_name_server_and_can_ask_again_after_it() -> None:
    with two_hosts() as (host, _):
        Path("/etc/netns", host.prefix[-1], "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1\n")
        command = [*host.prefix, sys.executable, "-c", ASKING]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert told.stdout == "0 True\n", told.stderr
