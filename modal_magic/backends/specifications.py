"""What the gateway and the agents of a session are told: all that its plan says, the same for every backend."""

from __future__ import annotations

from dataclasses import dataclass

from modal_magic.backends.base import Plan
from modal_magic.links.link import Keys, make_keys
from modal_magic.resuming import CHECKPOINTS
from modal_magic.specs import AgentSpec, GatewaySpec

__all__ = ["SessionKeys", "make_session_keys", "specifications"]


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The key pairs of a session: the gateway's own, and those that it admits clients and nodes with."""

    gateway: Keys
    client: Keys
    node: Keys


def make_session_keys() -> SessionKeys:
    """Fresh keys for a session."""
    return SessionKeys(make_keys(), make_keys(), make_keys())


def specifications(plan: Plan, keys: SessionKeys, checkpoints: str) -> tuple[GatewaySpec, AgentSpec]:
    """What the gateway is told, and what an agent is; `checkpoints` is a folder that outlives the ranks.

    Addresses, ports, folders and cores are left blank: whoever knows them fills them in (`msgspec.structs.replace`).
    """
    gateway = GatewaySpec(
        session=plan.session,
        host="",
        public_key=keys.gateway.public,
        secret_key=keys.gateway.secret,
        client_key=keys.client.public,
        node_key=keys.node.public,
        nodes=plan.nodes,
        ranks_per_node=plan.ranks_per_node,
        framework=plan.framework,
        accelerated=plan.gpu is not None,
        i6pn=False,
        environment={CHECKPOINTS: checkpoints, **plan.environment},
        lease=plan.lease,
        folder="",
        log_limit=plan.log_limit,
        idle=plan.idle,
        max_lifetime=plan.max_lifetime,
    )
    agent = AgentSpec(
        session=plan.session,
        node_rank=0,
        gateway_host="",
        gateway_port=0,
        gateway_key=keys.gateway.public,
        public_key=keys.node.public,
        secret_key=keys.node.secret,
        address="",
        framework=plan.framework,
        cores=0,
        first_accelerator=0,
    )
    return gateway, agent
