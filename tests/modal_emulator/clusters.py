"""Clusters: containers that are started together learn their ranks and each other's addresses (`modal.clustered`)."""

from __future__ import annotations

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

from tests.modal_emulator.service import Room

__all__ = ["Clusters"]

TOGETHER_SECONDS = 60.0


class Clusters(Room):
    """See the module."""

    async def TaskClusterHello(self, request: api.TaskClusterHelloRequest) -> api.TaskClusterHelloResponse:
        container = self.asking()
        cluster = container.cluster
        if cluster is None:
            raise GRPCError(Status.FAILED_PRECONDITION, "this container is in no cluster")
        cluster.addresses[container.id] = request.container_ip
        await self.world.ring()
        everyone = len(cluster.members)
        if not await self.world.until(lambda: len(cluster.addresses) == everyone, TOGETHER_SECONDS):
            raise GRPCError(Status.DEADLINE_EXCEEDED, "the cluster did not come together")
        return api.TaskClusterHelloResponse(
            cluster_id=cluster.id,
            cluster_rank=cluster.members.index(container),
            container_ips=[cluster.addresses[one.id] for one in cluster.members],
        )

    async def ClusterGet(self, request: api.ClusterGetRequest) -> api.ClusterGetResponse:
        if request.cluster_id not in self.world.clusters:
            raise GRPCError(Status.NOT_FOUND, f"Cluster {request.cluster_id} not found")
        cluster = self.world.clusters[request.cluster_id]
        names = [one.id for one in cluster.members]
        return api.ClusterGetResponse(cluster=api.ClusterStats(cluster_id=cluster.id, task_ids=names))
