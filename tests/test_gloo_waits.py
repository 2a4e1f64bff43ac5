"""What gloo waits for, told from what only looks like it."""

from __future__ import annotations

import subprocess
import sys

DECEIVED = """
import ctypes, threading, time
import torch.distributed
from modal_magic.frameworks import gloo_waits

maps = open("/proc/self/maps").read().splitlines()
library = ctypes.CDLL(next(line.split()[-1] for line in maps if line.endswith("/libtorch_cpu.so")))
methods = ctypes.addressof(ctypes.c_char.in_dll(library, "_ZTVN4gloo9transport3tcp13UnboundBufferE")) + 16
memory = (ctypes.c_uint64 * 64)()
memory[10] = methods  # as gloo has left it there
awaited = ctypes.addressof(memory) + 30 * 8
wait = lambda: ctypes.CDLL(None).syscall(202, ctypes.c_void_p(awaited), 0, 0, None, None, 0)
threading.Thread(target=wait, daemon=True).start()
waits = gloo_waits.GlooWaits()
while not any(str(awaited) in str(seen) for seen in waits.seen):
    waits.call_off()
    time.sleep(0.03)
before = bytes(memory)
for _ in range(3):
    waits.call_off()
    time.sleep(0.03)
print("unharmed" if bytes(memory) == before else "harmed")
"""
"""A thread waits near what is left of a buffer of gloo."""

DESERTED = """
import subprocess, sys, threading
from datetime import timedelta
import torch.distributed as dist
from modal_magic.frameworks.gloo_waits import GlooWaits

PEER = '''
import os, sys
from datetime import timedelta
import torch.distributed as dist

class Store(dist.Store):
    def set(self, key, value):
        shared.set(key, value)

    def get(self, *_):
        os._exit(9)

    wait = get

served = dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False, wait_for_workers=False)
shared = dist.PrefixStore(sys.argv[2], served)
dist.ProcessGroupGloo(Store(), 1, 2, timedelta(seconds=50))
'''
served, waits, freed = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False), GlooWaits(), []

def form(store):
    try:
        freed.append(dist.ProcessGroupGloo(store, 0, 2, timedelta(seconds=50)))
    except RuntimeError as error:  # it was for this rank to connect, as drawn by lot
        assert "refused" in str(error)

for attempt in map(str, range(20)):
    assert subprocess.run([sys.executable, "-c", PEER, str(served.port), attempt]).returncode == 9
    forming = threading.Thread(target=form, args=[dist.PrefixStore(attempt, served)], daemon=True)
    forming.start()
    while forming.is_alive():
        waits.call_off()
        forming.join(0.05)
    if freed:
        break
print("freed" if freed else "never waited")
"""
"""The other rank tells its address, and dies before it connects."""


def test_what_gloo_has_let_go_of_near_a_wait_of_another_kind_is_let_be() -> None:
    told = subprocess.run([sys.executable, "-c", DECEIVED], capture_output=True, text=True, timeout=60)
    assert (told.returncode, told.stdout) == (0, "unharmed\n"), told.stderr


def test_who_waits_in_gloo_for_a_rank_that_has_died_before_it_connected_is_freed() -> None:
    told = subprocess.run([sys.executable, "-c", DESERTED], capture_output=True, text=True, timeout=90)
    assert (told.returncode, told.stdout) == (0, "freed\n"), told.stderr
