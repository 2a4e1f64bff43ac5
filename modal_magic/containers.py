"""What the containers of a session are: the options that only Modal needs, once, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modal_magic import values as v
from modal_magic.reading import Option, Scope

__all__ = ["Containers", "containers_of", "option"]


def option(default: Any, help: str, parse: Callable[[object], object], scope: Scope, **rest: Any) -> Any:
    """A field of a dataclass that is an option."""
    made = Option(help=help, parse=parse, scope=scope, default=default, **{"nullable": default is None, **rest})
    return dataclasses.field(default=default, metadata={"option": made})


def _several(what: str, pattern: str, help: str, metavar: str, example: str) -> Any:
    """An option that may be given again, each time with one text."""
    return option(
        (), f"{help}; may be given again", v.several(what, pattern, example), "shape", write=" ".join, repeatable=True,
        metavar=metavar, example=example,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Containers:
    """What the containers of a session on Modal are. Times are in seconds, sizes in bytes."""

    region: str = option(
        "us-east", "region of all containers of the session on Modal: only there they reach each other",
        v.text("write a region as Modal names it", r"[a-z0-9-]+", "us-east"), "shape", metavar="REGION",
        example="us-east", suggestions=("us-east", "us-west", "us-central", "eu-west", "ap-northeast"),
    )  # fmt: skip
    cloud: str | None = option(
        None, "cloud of the containers; without one Modal chooses", v.choice("aws", "gcp", "oci"), "shape",
        absent="any", metavar="CLOUD", example="aws", choices=("aws", "gcp", "oci"),
    )  # fmt: skip
    cpu: float | None = option(
        None, "CPU cores of each node on Modal; without it Modal's default",
        v.number("a container has 0.125 to 64 cores", 0.125, 64.0), "shape", metavar="CORES", example="4",
    )  # fmt: skip
    memory: int | None = option(
        None, "memory of each node on Modal; without it Modal's default", v.capacity(128 * 2**20, "16GiB"), "shape",
        write=v.write_size, metavar="SIZE", example="16GiB",
    )  # fmt: skip
    ephemeral_disk: int | None = option(
        None, "disk of each node on Modal, from 512GiB on; without it Modal's default", v.capacity(2**39, "512GiB"),
        "shape", write=v.write_size, metavar="SIZE", example="512GiB",
    )  # fmt: skip
    image: str | None = option(
        None, "image of the nodes: a variable with a `modal.Image`, a Dockerfile, or a name in a registry",
        v.text("name an image or a Dockerfile", r"[\w./:@-]+", "nvcr.io/nvidia/pytorch:25.09-py3"), "shape",
        metavar="IMAGE", example="nvcr.io/nvidia/pytorch:25.09-py3",
    )  # fmt: skip
    pip: tuple[str, ...] = _several(
        "write a requirement as pip takes it", r"[A-Za-z0-9][^\s;'\"\\]*", "install this package in the image",
        metavar="PACKAGE", example="transformers==4.57.0",
    )  # fmt: skip
    python: str | None = option(
        None, "Python of the image; without it the notebook's", v.text("write a version", r"3\.\d{1,2}", "3.12"),
        "shape", metavar="VERSION", example="3.12",
    )  # fmt: skip
    secret: tuple[str, ...] = _several(
        "name a secret of your Modal workspace", r"[\w.-]+", "put this secret of Modal into the environment of ranks",
        metavar="NAME", example="huggingface",
    )  # fmt: skip
    volume: tuple[str, ...] = _several(
        "write NAME:/path", r"[\w.-]+:/[^\s:]+", "mount this volume of Modal on every node", metavar="NAME:/PATH",
        example="checkpoints:/checkpoints",
    )  # fmt: skip
    bucket: tuple[str, ...] = _several(
        "write NAME:/path, or NAME:/path:SECRET", r"[\w.-]+:/[^\s:]+(:[\w.-]+)?",
        "mount this S3 bucket on every node, with the AWS keys of a secret of Modal where it needs them",
        metavar="NAME:/PATH[:SECRET]", example="datasets:/datasets:aws",
    )  # fmt: skip
    include: tuple[str, ...] = _several(
        "name a module that the notebook can import, or a folder with a / in its name",
        r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*|[^\s:]*/[^\s:]*",
        "send this module or package of yours along, or what is in this folder (`./`)", metavar="NAME",
        example="my_models",
    )  # fmt: skip
    snapshot: str = option(
        "cpu", "start nodes from a memory snapshot: of the CPU, with the GPU too, or `off`",
        v.choice("cpu", "gpu", "off"), "shape", metavar="KIND", example="off", choices=("cpu", "gpu", "off"),
    )  # fmt: skip
    clustered: bool = option(
        False, "have nodes that are whole hosts placed together by Modal; they start without a snapshot", v.switch,
        "shape", switch=True, example="true", write=v.write_switch,
    )  # fmt: skip
    rdma: bool = option(
        False, "have RDMA between the nodes of a cluster", v.switch, "shape", switch=True, example="true",
        write=v.write_switch,
    )  # fmt: skip
    preload: tuple[str, ...] = _several(
        "name a module", r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", "import this module before the snapshot, beside torch",
        metavar="MODULE", example="transformers",
    )  # fmt: skip
    no_i6pn: bool = option(
        False, "do without Modal's private network: for a session of one node, whose gateway is in its container then",
        v.switch, "shape", switch=True, example="true", write=v.write_switch,
    )  # fmt: skip
    startup_timeout: float = option(
        600.0, "how long the nodes of a session may take to start on Modal, all together",
        v.duration("nodes have 1s to 24h to start", 1.0, 86400.0, "10min"), "shape", write=v.write_duration,
        metavar="TIME", example="10min",
    )  # fmt: skip
    scaledown: float | None = option(
        None, "keep containers of an ended session this long for the next one; they cost as before",
        v.duration("containers are kept 2s to 1h", 2.0, 3600.0, "5min"), "shape", write=v.write_duration,
        absent="off", metavar="TIME", example="5min",
    )  # fmt: skip
    min_containers: int | None = option(
        None, "containers that wait for a session, also when there is none: they cost as if they were used",
        v.whole("1 to 1024 containers can wait", 1, 1024), "shape", absent="none", metavar="N", example="2",
    )  # fmt: skip
    nonpreemptible: bool = option(
        False, "have nodes without GPUs that Modal does not take away, at three times the price", v.switch, "shape",
        switch=True, example="true", write=v.write_switch,
    )  # fmt: skip

    @property
    def snapshotted(self) -> bool:
        """Whether nodes start from a memory snapshot. Those of a cluster would all have the rank of the first one."""
        return self.snapshot != "off" and not self.clustered


def containers_of(options: Containers) -> Containers:
    """What options, or a shape, say about containers, and no more."""
    return Containers(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Containers)})
