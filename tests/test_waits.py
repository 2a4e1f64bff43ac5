"""Waits of the main thread, while the system delivers the interrupt to another thread of the process."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from modal_magic.backends.modal import _in_thread
from modal_magic.backends.zygotes import Zygote
from modal_magic.waits import ended, result_of, stepwise, waited


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """What interrupts this process a moment later, by a signal that its main thread is not told of."""
    wanted = threading.Event()

    def deliver() -> None:
        if wanted.wait(60):
            threading.Event().wait(0.3)  # the main thread goes into its wait
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=deliver)
    thread.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield wanted.set
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        wanted.set()
        thread.join()


def in_a_thread_of_its_own() -> None:
    released = threading.Event()
    abandoned = threading.Event()
    threading.Thread(target=lambda: abandoned.wait(60) and released.set()).start()
    _in_thread(lambda: released.wait(60), abandoned)


WAITS: dict[str, Callable[[], object]] = {
    "an event": lambda: waited(threading.Event(), None),
    "an event for a while": lambda: waited(threading.Event(), 60.0),
    "the result of a future": lambda: result_of(Future[None]()),
    "what Modal is asked for": in_a_thread_of_its_own,
}


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.timeout(30)
def test_an_interrupt_ends_a_wait_whichever_thread_is_told_of_it(name: str, interrupt: Callable[[], None]) -> None:
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        WAITS[name]()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("wait", [lambda process: Zygote(process, {}).hear(), ended], ids=["its word", "its end"])
def test_an_interrupt_ends_the_wait_for_a_process(
    wait: Callable[[subprocess.Popen[bytes]], object], interrupt: Callable[[], None]
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            wait(process)
        process.kill()
        assert ended(process)


def test_a_wait_takes_as_long_as_it_was_told_and_no_longer() -> None:
    told: list[float] = []

    def attempt(seconds: float) -> bool:
        told.append(seconds)
        return threading.Event().wait(seconds)

    assert not stepwise(attempt, 0.25)
    assert len(told) in (3, 4) and max(told) <= 0.1
    with pytest.raises(TimeoutError):
        result_of(Future[None](), 0.01)


def test_a_result_and_an_error_come_as_they_are() -> None:
    done, failed = Future[int](), Future[int]()
    done.set_result(3)
    failed.set_exception(queue.Empty("nothing"))
    assert result_of(done, 0.0) == 3
    with pytest.raises(queue.Empty, match="nothing"):
        result_of(failed)
