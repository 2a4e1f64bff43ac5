"""From options to the plan of a session, from its plan to its connection file, and from that to its shape."""

from __future__ import annotations

import dataclasses

from modal_magic import registry
from modal_magic.backends.base import Plan, Reached
from modal_magic.containers import containers_of
from modal_magic.options import Options, Shape
from modal_magic.protocol import VERSION

__all__ = ["connection_of", "plan_of", "shape_of"]


def plan_of(session: str, options: Options, backend: str) -> Plan:
    """The session that these options want of a backend."""
    shape = options.shape()
    return Plan(
        session=session,
        nodes=shape.replicas,
        ranks_per_node=shape.nproc_per_node,
        gpu=shape.gpu,
        framework=shape.framework,
        environment=dict(shape.env),
        lease=options.lease,
        log_limit=options.log_limit,
        idle=options.idle_on(backend),
        max_lifetime=options.max_lifetime,
        containers=containers_of(shape),
        link=options.link,
    )


def connection_of(plan: Plan, backend: str, reached: Reached, notebook: str) -> registry.Connection:
    """What the connection file says of a session that a backend has started; `notebook` is the file that wants it."""
    return registry.Connection(
        version=VERSION,
        session=plan.session,
        backend=backend,
        host=reached.host,
        port=reached.port,
        gateway_key=reached.gateway_key,
        public_key=reached.client_keys.public,
        secret_key=reached.client_keys.secret,
        nodes=plan.nodes,
        ranks_per_node=plan.ranks_per_node,
        framework=plan.framework,
        gpu=plan.gpu,
        environment=plan.environment,
        containers=plan.containers,
        pid=reached.pid,
        born=registry.birth(reached.pid) or 0.0,
        notebook=notebook,
        meeting=reached.meeting,
    )


def shape_of(connection: registry.Connection) -> Shape:
    """The shape of the session that a connection file tells of."""
    return Shape(
        replicas=connection.nodes,
        nproc_per_node=connection.ranks_per_node,
        gpu=connection.gpu,
        backend=connection.backend,
        framework=connection.framework,
        env=tuple(sorted(connection.environment.items())),
        **dataclasses.asdict(connection.containers),
    )
