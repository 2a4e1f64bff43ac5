"""What tests share: a runtime folder of their own, warm resources, and the check that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

from modal_magic.backends.local import LocalBackend
from modal_magic.sessions.resources import Resources
from modal_magic.sessions.session import Session
from tests.modal_emulator.handle import Handle, emulator
from tests.support.notebook import Notebook, notebook
from tests.support.processes import described, end, gone, ours

STOP_OWN = """
for session in list(get_ipython().magics_manager.registry["ModalMagics"].sessions.attached.values()):
    session.stop()
"""
"""Ends the sessions of a kernel, and none of another."""


def pytest_configure() -> None:
    """Hear interrupts, and have children hear them, also where a shell has started the tests in its background.

    What hypothesis tries may take long on a machine that does other things too.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("unhurried")


@pytest.fixture(scope="session", autouse=True)
def runtime_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Connection files of the tests, apart from the user's own; whatever is still there at the end is an orphan."""
    folder = tmp_path_factory.mktemp("runtime")
    os.environ["MODAL_MAGIC_RUNTIME_DIR"] = str(folder)
    yield folder
    gone([process.pid for process in ours(str(folder))])  # a zygote that still imports sees its kernel's end after that
    told = end(ours(str(folder)))
    assert not told, f"processes were left behind:\n{told}"
    assert not list(folder.iterdir()), f"files were left behind: {sorted(folder.rglob('*'))}"


@pytest.fixture(scope="session")
def resources(runtime_folder: Path) -> Iterator[Resources]:
    """Warm resources that sessions of many tests share."""
    shared = Resources()
    shared.prepare()
    yield shared
    shared.close()


@pytest.fixture(scope="session")
def modal_service(runtime_folder: Path) -> Iterator[Handle]:
    """An emulator of Modal's control plane, for all tests: a process's client of Modal knows one address."""
    with emulator() as started:
        yield started


def warm_pids(shared: Resources) -> set[int]:
    """The zygotes that wait for a session."""
    backend = shared.backend("local")
    assert isinstance(backend, LocalBackend)
    return {zygote.process.pid for zygote in backend._warm or []}


@contextmanager
def leaving_nothing(resources: Resources, runtime_folder: Path) -> Iterator[None]:
    """At the end there is no process, thread or file more than before. What is left does not trouble other tests."""
    before = {process.pid for process in ours(str(runtime_folder))}
    threads = set(threading.enumerate())
    files = set(runtime_folder.iterdir())
    yield
    known = before | warm_pids(resources)
    left = [process for process in ours(str(runtime_folder)) if process.pid not in known]
    told = "" if gone([process.pid for process in left]) else end(left)
    extra = [thread for thread in set(threading.enumerate()) - threads if "modal_magic links" not in thread.name]
    rest = set(runtime_folder.iterdir()) - files
    for folder in rest:
        shutil.rmtree(folder, ignore_errors=True)
    assert not told, f"processes were left behind:\n{told}"
    assert not extra, f"threads were left behind: {extra}"
    assert not rest, f"files were left behind: {rest}"


@pytest.fixture
def nothing_left(resources: Resources, runtime_folder: Path) -> Iterator[None]:
    """After the test there is no process, thread or file more than before."""
    with leaving_nothing(resources, runtime_folder):
        yield


@pytest.fixture
def session(resources: Resources, nothing_left: None) -> Iterator[Session]:
    """A session of four ranks of its own."""
    with Session(resources=resources, replicas=4, backend="local") as made:
        resources.prepare()
        yield made


@pytest.fixture(scope="module")
def long_session(resources: Resources, runtime_folder: Path) -> Iterator[Session]:
    """A session of four ranks that is up while the tests of a module run. They take it from `shared_session`."""
    with leaving_nothing(resources, runtime_folder), Session(resources=resources, replicas=4, backend="local") as made:
        resources.prepare()
        made.run("pass").wait(60)
        yield made


@pytest.fixture
def shared_session(long_session: Session, resources: Resources, runtime_folder: Path) -> Iterator[Session]:
    """A session of four ranks that tests before this one have used: whatever they did to it, it is of use.

    After the test all ranks are there again, and there is no process or thread more than before.
    """
    before, threads = len(crowd(resources, runtime_folder)), set(threading.enumerate())
    yield long_session
    long_session.run("pass").wait(60)  # a rank that was lost is there again
    until = time.monotonic() + 10
    while len(left := crowd(resources, runtime_folder)) > before and time.monotonic() < until:
        time.sleep(0.05)
    assert len(left) <= before, f"there were {before} processes, and now:\n{described(left)}"
    assert set(threading.enumerate()) <= threads


def crowd(shared: Resources, runtime_folder: Path) -> list[psutil.Process]:
    """All processes but the zygotes that wait for a session."""
    waiting = warm_pids(shared)
    return [process for process in ours(str(runtime_folder)) if process.pid not in waiting]


@pytest.fixture(scope="module")
def book(runtime_folder: Path) -> Iterator[Notebook]:
    """A kernel with the extension loaded, shared by the tests of a module; its sessions are stopped at the end."""
    with notebook() as opened:
        opened.run("%load_ext modal_magic")
        yield opened
        opened.run(STOP_OWN)


@pytest.fixture
def fresh_book(runtime_folder: Path) -> Iterator[Notebook]:
    """A kernel of its own for one test, with the extension loaded; its sessions are stopped at the end."""
    with notebook() as opened:
        opened.run("%load_ext modal_magic")
        yield opened
        opened.run(STOP_OWN)


@pytest.fixture
def jp_asyncio_loop() -> None:
    """pytest-jupyter gives every test an event loop; only tests/test_server.py wants that."""


@pytest.fixture
def jp_server_cleanup() -> None:
    """As above, for the server that it ends after every test."""
