"""What is told of a process that says nothing: whether it waits in C code for ever, for all that one can see."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from modal_magic.node.silent import is_stuck, last_seen, processor_ticks, silence
from modal_magic.protocol import Whereabouts
from tests.support.eventually import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process does")

WAITS = "ctypes.PyDLL(None).sleep(60)"
COMPUTES = "all(map((time.time() + 60).__gt__, iter(time.time, None)))"


@contextmanager
def process(source: str) -> Iterator[int]:
    """The pid of a process that has begun with this code."""
    code = f"import ctypes, threading, time\nprint(flush=True)\n{source}"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        try:
            yield child.pid
        finally:
            child.kill()


@pytest.mark.parametrize("beside", ["", "threading.Thread(target=time.sleep, args=[0], daemon=True).start()\n"])
def test_one_that_waits_in_c_code_is_stuck(beside: str) -> None:
    with process(beside + WAITS) as pid:
        until(lambda: is_stuck(pid, processor_ticks(pid)))
        assert silence(pid) == "does not answer: C code waits and holds the GIL"


def test_one_that_computes_is_not() -> None:
    with process(COMPUTES) as pid:
        ticks = processor_ticks(pid)
        until(lambda: processor_ticks(pid) > ticks + 5)
        assert not is_stuck(pid, ticks) and not is_stuck(pid, processor_ticks(pid))
        assert silence(pid) == "does not answer: C code computes and holds the GIL"
        at_line = Whereabouts(line=4)
        assert last_seen(at_line, pid) == " (last seen at cell line 4; C code computes and holds the GIL)"
        assert last_seen(None, pid) == " (C code computes and holds the GIL)"
        assert last_seen(Whereabouts(line=4, collective="barrier"), None) == " (last seen in barrier at cell line 4)"
        assert last_seen(Whereabouts(), None) == last_seen(None, None) == ""


def test_one_whose_main_thread_waits_for_a_thread_that_computes_is_not() -> None:
    computing = "threading.Thread(target=exec, args=['while True: pass'], daemon=True).start()\ntime.sleep(60)"
    with process(computing) as pid:
        begun = psutil.Process(pid).cpu_times().user
        until(lambda: psutil.Process(pid).cpu_times().user > begun + 0.1)  # more than it takes to begin
        for _ in range(20):
            assert not is_stuck(pid, processor_ticks(pid))


def test_one_that_has_run_meanwhile_is_not() -> None:
    with process(WAITS) as pid:
        until(lambda: is_stuck(pid, processor_ticks(pid)))
        assert not is_stuck(pid, processor_ticks(pid) - 1)


def test_one_that_is_stopped_or_gone_is_not() -> None:
    with process(WAITS) as pid:
        until(lambda: is_stuck(pid, processor_ticks(pid)))
        ticks = processor_ticks(pid)
        subprocess.run(["kill", f"-{signal.SIGSTOP.value}", str(pid)], check=True)
        until(lambda: silence(pid) == "is stopped (SIGSTOP)")
        assert not is_stuck(pid, ticks)
    assert not is_stuck(pid, ticks) and processor_ticks(pid) == -1
