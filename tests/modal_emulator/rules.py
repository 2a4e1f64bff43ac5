"""What the real service refuses and the client does not check, from Modal's documentation."""

from __future__ import annotations

from grpclib import GRPCError, Status
from modal_proto import api_pb2 as api

__all__ = ["REGIONS", "check"]

GPUS = {
    "T4", "L4", "A10", "A10G", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000", "H100", "H100!", "H200",
    "B200", "B200+", "B300",
}  # fmt: skip
MOST_GPUS = {"A10": 4, "A10G": 4}
WHOLE_HOST = 8
LONGEST_SECONDS = 24 * 3600
REGIONS = ("us", "eu", "ap", "uk", "ca", "me", "sa", "af", "mx", "il", "jp", "au")
CLOUDS = {"", "aws", "gcp", "oci", "auto"}


def check(definition: api.Function) -> None:
    """Raise what the service would for a function that it cannot run."""
    gpu, placement = definition.resources.gpu_config, definition.scheduler_placement
    kind = gpu.gpu_type.upper()
    if kind and kind not in GPUS:
        _refuse(f"Unknown GPU type {gpu.gpu_type!r}")
    if gpu.count > MOST_GPUS.get(kind, 8):
        _refuse(f"A container can have at most {MOST_GPUS.get(kind, 8)} GPUs of type {kind}")
    if not 1 <= definition.timeout_secs <= LONGEST_SECONDS:
        _refuse(f"Function timeout must be between 1 second and 24 hours, not {definition.timeout_secs} s")
    if placement.nonpreemptible and kind:
        _refuse("nonpreemptible is not supported for GPU Functions")
    for region in placement.regions:
        if not region.startswith(REGIONS):
            _refuse(f"Unknown region {region!r}")
    if definition.cloud_provider_str not in CLOUDS:
        _refuse(f"Unknown cloud {definition.cloud_provider_str!r}")
    if definition._experimental_group_size and not (kind and gpu.count == WHOLE_HOST):
        _refuse("Clustered Functions must use all GPUs of their hosts")
    if definition.resources.ephemeral_disk_mb and not 524_288 <= definition.resources.ephemeral_disk_mb <= 3_145_728:
        _refuse("ephemeral_disk must be between 524288 and 3145728 MiB")


def _refuse(text: str) -> None:
    raise GRPCError(Status.INVALID_ARGUMENT, text)
