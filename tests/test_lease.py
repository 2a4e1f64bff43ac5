"""No session outlives its time, and none leaves anything behind, whatever ends it or its kernel (real processes)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from modal_magic import Session, SessionClosed, registry
from modal_magic.backends.base import Plan
from modal_magic.backends.specifications import make_session_keys, specifications
from modal_magic.sessions.resources import Resources
from tests.support.eventually import seen
from tests.support.notebook import notebook
from tests.support.processes import gone, ours
from tests.test_processes import everyone

pytestmark = pytest.mark.patient


def closing(session: Session) -> str:
    """Wait until a session has ended by itself; why it did."""
    assert seen(lambda: session.closed)
    with pytest.raises(SessionClosed) as caught:
        session.check_open()
    return str(caught.value)


def test_an_idle_session_warns_and_ends_though_a_kernel_is_attached(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, backend="local", framework="none", idle=6)
    pids = everyone(session)
    session.run("pass").wait(30)
    left = session.status().idle_left
    assert left is not None and 0 < left <= 6
    told = session.notices.get(timeout=10)
    assert told == "this session ends in 1s unless a cell runs: it had none for 5s (--idle 6s)"
    assert "it had no run for 6s (--idle)" in closing(session)
    assert gone(pids)
    assert session.name not in registry.names()
    session.stop()


def test_no_idle_time_passes_during_a_run(resources: Resources, nothing_left: None) -> None:
    with Session(resources=resources, backend="local", framework="none", idle=3) as session:
        run = session.run("import time; time.sleep(5); 'over'")
        assert session.status().idle_left is None
        assert run.wait(30).ranks[0].result == "'over'"


def test_the_longest_life_ends_a_session_that_is_busy(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, backend="local", framework="none", max_lifetime=10)
    pids = everyone(session)
    run = session.run("import time; time.sleep(1000)")
    left = session.status().lifetime_left
    assert left is not None and 0 < left <= 10
    with pytest.raises(SessionClosed, match=r"its longest time to live, 10s, is over \(--max-lifetime\)"):
        run.wait(30)
    assert gone(pids)
    session.stop()


LEAVING = {
    "crash": "import ctypes; ctypes.string_at(0)",
    "SIGKILL": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "exit": "exit()",
    "os._exit": "import os; os._exit(3)",
}


@pytest.mark.kernel
@pytest.mark.parametrize("how", LEAVING)
def test_whatever_ends_a_kernel_nothing_is_left_after_the_lease(runtime_folder: Path, how: str) -> None:
    before = {process.pid for process in ours(str(runtime_folder))}
    with notebook() as book:
        book.run("%load_ext modal_magic")
        book.run("%%modal_distributed --replicas 2 --backend local --lease 8s --session brief\nkept = 1")
        book.send(LEAVING[how])
        assert gone([book.manager.provisioner.pid])  # type: ignore[union-attr]
        assert "brief" in registry.names()  # it outlives its kernel
        left = [process.pid for process in ours(str(runtime_folder)) if process.pid not in before]
        assert gone(left)
        assert not registry.folder_of("brief").exists()


@pytest.mark.parametrize("spared", [0, 1])
def test_one_worker_that_is_left_alone_of_a_session_ends_with_all_that_it_started(
    resources: Resources, nothing_left: None, spared: int
) -> None:
    script = textwrap.dedent(
        f"""
        import modal_magic
        session = modal_magic.Session(replicas=2, backend="local", session="alone-{spared}")
        session.run("import subprocess; subprocess.Popen(['sleep', '1000'])").wait(60)
        print("up", flush=True)
        input()
        """
    )
    kernel = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert kernel.stdout is not None and kernel.stdin is not None
    assert kernel.stdout.readline() == b"up\n"
    session = Session.attach(f"alone-{spared}", resources)
    kept = psutil.Process(session.status().ranks[spared].pid)
    zygote = kept.parent()
    assert zygote is not None
    pids = [zygote.pid, *(child.pid for child in zygote.children(recursive=True))]
    its_own = [kept.pid, *(child.pid for child in kept.children())]
    assert len(its_own) == 2
    for pid in [kernel.pid, *(pid for pid in pids if pid not in its_own)]:
        with contextlib.suppress(ProcessLookupError):  # who has lost his zygote may have ended already
            os.kill(pid, signal.SIGKILL)
    assert gone([kernel.pid, *pids])
    kernel.wait()
    kernel.stdin.close()
    kernel.stdout.close()
    session.detach()
    registry.forget(f"alone-{spared}")


def test_every_limit_of_a_session_reaches_its_gateway() -> None:
    plan = Plan("s", 1, 1, None, "none", {}, lease=1.0, log_limit=2, idle=3.0, max_lifetime=4.0)
    gateway, _ = specifications(plan, make_session_keys(), "/data/s")
    assert (gateway.lease, gateway.log_limit, gateway.idle, gateway.max_lifetime) == (1.0, 2, 3.0, 4.0)
