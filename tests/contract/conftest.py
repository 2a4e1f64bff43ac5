"""The backends that keep the contract: one fixture, one session of four ranks for the whole suite on each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modal_magic.backends.local import LocalBackend
from modal_magic.sessions.resources import Resources
from modal_magic.sessions.session import Session
from tests.modal_emulator.handle import Handle
from tests.support.namespaces import possible, two_hosts

NAMESPACES = [
    pytest.mark.namespaces,
    pytest.mark.skipif(not possible(), reason="network namespaces need root and iproute2 on Linux"),
]


@pytest.fixture(
    scope="package",
    params=["local", pytest.param("namespaces", marks=NAMESPACES), pytest.param("modal", marks=NAMESPACES)],
)
def ranks(request: pytest.FixtureRequest, resources: Resources) -> Iterator[Session]:
    """A session of four ranks: on this machine; on two nodes of two ranks in network namespaces over IPv6; on Modal."""
    if request.param == "local":
        with Session(resources=resources, replicas=4, backend="local") as session:
            yield session
        return
    if request.param == "modal":
        service: Handle = request.getfixturevalue("modal_service")
        with service.reached(), Session(resources=resources, replicas=2, nproc_per_node=2, backend="modal") as session:
            yield session
        return
    with two_hosts() as hosts:
        own = Resources({"local": LocalBackend(hosts)})
        try:
            with Session(resources=own, replicas=2, nproc_per_node=2, backend="local") as session:
                yield session
        finally:
            own.close()
