"""What a zygote does with the processes that nobody else ends (Linux: real processes, in a process of their own)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.patient, pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")]

BEGIN = """
import os, signal, subprocess, sys, time
import psutil
from modal_magic.node import orphans, zygote
from modal_magic.node.zygote import Child, Zygote

def until(holds):
    limit = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.01)

def strays():
    return [each for each in psutil.Process().children(recursive=True) if each.status() != "zombie"]

def reap():
    zygote.reap(serving, alarm)

alarm, bell = os.pipe()
os.set_blocking(alarm, False)
orphans.adopt()
serving = Zygote(-1, -1)
"""


def play(what: str) -> None:
    """Run this in a process that adopts orphans, as a zygote does; what it left behind is ended."""
    done = subprocess.run([sys.executable, "-c", f"{BEGIN}\ntry:\n{what}\nfinally:\n    orphans.kill_strays(set())"])
    assert done.returncode == 0


def test_a_stray_is_ended_with_all_that_it_has_started_in_sessions_of_their_own() -> None:
    play("""
    subprocess.run(["setsid", "--fork", "sh", "-c", "setsid sleep 1000 & exec sleep 1001"], check=True)
    until(lambda: [each.name() for each in strays()] == ["sleep"] * 2)
    orphans.kill_strays(set())
    until(lambda: not strays())
""")


def test_what_living_ranks_have_in_the_background_stays_when_one_of_these_processes_ends() -> None:
    play("""
    rank = subprocess.Popen(["sleep", "1000"])
    serving.children = {rank.pid: Child("worker"), -1: Child("agent")}
    subprocess.run(["setsid", "--fork", "sleep", "1001"], check=True)
    subprocess.run(["setsid", "--fork", "true"], check=True)
    until(lambda: any(each.status() == "zombie" for each in psutil.Process().children()))
    until(lambda: {each.cmdline()[1] for each in strays()} == {"1000", "1001"})
    reap()
    time.sleep(0.1)
    assert {each.cmdline()[1] for each in strays()} == {"1000", "1001"}
    rank.kill()
    until(lambda: psutil.Process(rank.pid).status() == "zombie")
    reap()
    until(lambda: not strays())
    assert serving.children == {-1: Child("agent")}
""")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a process of another user")
def test_a_stray_of_another_user_costs_nobody_the_zygote() -> None:
    play("""
    other = subprocess.Popen(["sleep", "1000"])
    child = os.fork()
    if not child:
        os.setuid(65534)
        orphans.kill_process(other.pid)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
""")
