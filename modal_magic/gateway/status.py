"""How a session is, for those who ask: each rank, what runs and waits, and what is left on each clock."""

from __future__ import annotations

from collections.abc import Mapping

from modal_magic import protocol as p
from modal_magic.live import LiveTable
from modal_magic.specs import GatewaySpec
from modal_magic.state import Machine

__all__ = ["status_of"]


def status_of(
    request: str,
    spec: GatewaySpec,
    machine: Machine,
    live: LiveTable,
    clients: int,
    uptime: float,
    left: Mapping[str, float],
) -> p.Status:
    """The answer to a request; `left` is how many seconds each timer still has."""
    run = machine.active.run if machine.active is not None else machine.queue.retrying or None
    return p.Status(
        request=request,
        session=spec.session,
        state=machine.state,
        generation=machine.generation,
        ranks=[
            p.RankStatus(
                number,
                machine.settings.topology.node_of(number),
                rank.state,
                rank.pid,
                run if machine.active is not None and number in machine.active.pending else None,
                rank.device,
                *live.seen(number, run),
            )
            for number, rank in enumerate(machine.ranks)
        ],
        run=run,
        queued=[queued for queued in machine.queue.runs if queued != run],
        clients=clients,
        uptime=uptime,
        lease=machine.lease.lease,
        lease_left=left.get("lease"),
        idle=machine.lease.idle,
        idle_left=left.get("idle"),
        lifetime_left=left.get("lifetime"),
    )
