"""A notebook that reaches the emulator of Modal, and the emulator as it is not usual."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.modal_emulator.handle import Handle
from tests.support.eventually import seen
from tests.support.notebook import Notebook, notebook

__all__ = ["modal_book", "settings"]


@contextmanager
def settings(service: Handle, usual: dict[str, object], **changed: object) -> Iterator[None]:
    """Have the emulator be otherwise for the time of this context."""
    service.ask("set", settings=changed)
    try:
        yield
    finally:
        service.ask("set", settings=usual)


@pytest.fixture
def modal_book(modal_service: Handle) -> Iterator[Notebook]:
    """A kernel that reaches the emulator, with the extension loaded. At its end no container may be left."""
    with modal_service.reached(), notebook() as opened:
        opened.run("%load_ext modal_magic")
        yield opened
        opened.run("%modal_stop --all")
    assert seen(lambda: not modal_service.containers()), modal_service.logs()
