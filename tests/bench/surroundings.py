"""Where benchmarks run: a folder of their own, an environment like a user's, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil  # type: ignore[import-untyped]

from modal_magic import registry
from modal_magic.errors import ModalMagicError
from modal_magic.sessions.session import Session

__all__ = ["ROOT", "alone", "child_environment", "clear_up", "time_limit"]

ROOT = Path(__file__).resolve().parents[2]
UNUSUAL = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "MODAL_MAGIC_SESSION")
"""Variables that test machines set and users do not, and that change what is measured."""
GRACE_SECONDS = 6.0


def child_environment() -> dict[str, str]:
    """The environment of every process that a benchmark starts."""
    kept = {key: value for key, value in os.environ.items() if key not in UNUSUAL}
    # The package beside these files is measured, whether it is installed or not.
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))}


@contextlib.contextmanager
def alone() -> Iterator[Path]:
    """A temporary folder, in which everything that would be kept between runs is kept instead."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        names = ("MODAL_MAGIC_RUNTIME_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        before = {key: os.environ.get(key) for key in names}
        os.environ.update({key: str(folder / key.lower()) for key in names})
        here = Path.cwd()
        os.chdir(folder)  # no configuration file of a project is found from here
        try:
            yield folder
        finally:
            os.chdir(here)
            for key, value in before.items():
                if value is None:
                    del os.environ[key]
                else:
                    os.environ[key] = value


@contextlib.contextmanager
def time_limit(limit: int) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer than this many seconds, and again where that was ignored."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done within {limit} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit, 30)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def clear_up() -> list[str]:
    """Stop sessions that a benchmark left, then name and end what is still there of its processes.

    This process adopts orphans (`orphans.adopt`), so whatever benchmarks started is found among its descendants.
    """
    for name in registry.names():
        with contextlib.suppress(ModalMagicError):
            Session.attach(name).stop()
    until = time.monotonic() + GRACE_SECONDS
    while (left := _descendants()) and time.monotonic() < until:
        time.sleep(0.05)
    names = []
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(f"{' '.join(process.cmdline()[1:3])} ({process.num_threads()} threads, {process.status()})")
            process.kill()
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.wait(1)
    _descendants()
    return names


def _descendants() -> list[psutil.Process]:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    found: list[psutil.Process] = psutil.Process().children(recursive=True)
    return found
