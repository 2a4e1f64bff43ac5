"""A session of plain ranks, and clients of it beside the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from modal_magic import Session
from modal_magic.sessions.resources import Resources

__all__ = ["plain", "resources_of_its_own"]


@contextmanager
def resources_of_its_own() -> Iterator[Resources]:
    """Resources of a client of its own."""
    made = Resources()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def plain(resources: Resources, nothing_left: None) -> Iterator[Session]:
    """A session of two ranks without a process group."""
    with Session(resources=resources, replicas=2, backend="local", framework="none") as session:
        yield session.ready()
