"""A notebook that reaches the emulator of Modal, and waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.emulator.handle import Handle
from tests.support.notebook import Notebook, notebook

__all__ = ["modal_book", "seen"]


@pytest.fixture
def modal_book(modal_service: Handle) -> Iterator[Notebook]:
    """A kernel that reaches the emulator, with the extension loaded. At its end no container may be left."""
    with modal_service.reached(), notebook() as opened:
        opened.run("%load_ext modal_magic")
        yield opened
        opened.run("%modal_stop --all")
    assert seen(lambda: not modal_service.containers()), modal_service.logs()


def seen(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait until something is so, as another process will have it."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
