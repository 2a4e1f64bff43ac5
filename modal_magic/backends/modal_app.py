"""The app on Modal that sessions of one kind share: what it is made of, its name, and that it is deployed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Any

import modal
import msgspec

from modal_magic.backends.modal_gateway import Gateway
from modal_magic.backends.modal_inventory import APP_PREFIX
from modal_magic.backends.modal_node import PRELOAD, ColdNode, Node
from modal_magic.containers import Containers
from modal_magic.errors import UsageError

__all__ = ["deployed", "node_class"]

LONGEST_SECONDS = 24 * 3600
"""How long one call may serve: Modal's limit for a function."""
LEAST_SCALEDOWN_SECONDS = 2
"""How long a container without a call stays: Modal's minimum. One that was started for a cancelled call has none."""
WORK = "/root"
"""The folder that Modal's containers work in, and import from."""
BESIDE = ("ipython", "msgspec", "nest-asyncio2", "pyzmq", "numpy")
"""What ranks, agents and the gateway need beside torch, in the notebook's own versions."""


def node_class(containers: Containers) -> str:
    """The name of the class that nodes are of."""
    return Node.__name__ if containers.snapshotted else ColdNode.__name__


def deployed(gpu: str | None, containers: Containers, nodes: int) -> str:
    """The name of the deployed app for such containers; it is deployed if it is not yet. A cluster has so many `nodes`.

    The name holds a hash of all that the app is made of, our own source included, so that an app that is there under
    it is the one that is wanted. What a variable's image is made of nobody can tell: it is deployed each time.
    """
    name = f"{APP_PREFIX}{_digest(gpu, containers, nodes if containers.clustered else 0)}"
    if _variable(containers.image) is None:
        with contextlib.suppress(modal.exception.NotFoundError):
            modal.App.lookup(name)
            return name
    app = modal.App(name)
    common: dict[str, Any] = {
        "image": _image(containers),
        "region": containers.region,
        "cloud": containers.cloud,
        "i6pn": not containers.no_i6pn,
        "timeout": LONGEST_SECONDS,
        "startup_timeout": round(containers.startup_timeout),
    }
    if not containers.no_i6pn:
        once = {**common, "single_use_containers": True, "scaledown_window": LEAST_SCALEDOWN_SECONDS}
        app.cls(**once, nonpreemptible=True)(Gateway)
    of_nodes: Any = Node if containers.snapshotted else ColdNode
    if containers.clustered:
        of_nodes = modal.clustered(size=nodes, rdma=containers.rdma)(of_nodes)
    app.cls(**common, **_of_nodes(gpu, containers))(of_nodes)
    with modal.enable_output():  # the log of a build that fails is what its user needs
        app.deploy()
    return name


def _of_nodes(gpu: str | None, containers: Containers) -> dict[str, Any]:
    """The arguments of `App.cls` for the class of nodes."""
    volumes = [volume.partition(":") for volume in containers.volume]
    found: dict[str, Any] = {
        "gpu": gpu.split(",") if gpu is not None and "," in gpu else gpu,
        "cpu": containers.cpu,
        "memory": containers.memory and containers.memory // 2**20,
        "ephemeral_disk": containers.ephemeral_disk and containers.ephemeral_disk // 2**20,
        "secrets": [modal.Secret.from_name(name) for name in containers.secret],
        "volumes": {path: modal.Volume.from_name(name) for name, _, path in volumes} | _buckets(containers),
        "nonpreemptible": containers.nonpreemptible or None,
        "env": {PRELOAD: " ".join(containers.preload)},
        "enable_memory_snapshot": containers.snapshotted,
        "min_containers": containers.min_containers,
        "single_use_containers": containers.scaledown is None,
        "scaledown_window": round(containers.scaledown or LEAST_SCALEDOWN_SECONDS),
    }
    if containers.snapshot == "gpu":
        found["experimental_options"] = {"enable_gpu_snapshot": True}
    return found


def _buckets(containers: Containers) -> dict[str, modal.CloudBucketMount]:
    found = {}
    for bucket in containers.bucket:
        name, path, *secret = bucket.split(":")
        found[path] = modal.CloudBucketMount(name, secret=modal.Secret.from_name(secret[0]) if secret else None)
    return found


def _image(containers: Containers) -> modal.Image:
    """The image: a slim Debian with this notebook's Python and torch, or `--image`; and what ranks need beside them."""
    python = containers.python or f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in BESIDE]
    if containers.image is None:
        image = modal.Image.debian_slim(python_version=python).uv_pip_install(_torch())
    elif (own := _variable(containers.image)) is not None:
        image = own
    elif Path(containers.image).is_file():
        image = modal.Image.from_dockerfile(containers.image, add_python=containers.python)
    else:
        image = modal.Image.from_registry(containers.image, add_python=containers.python)
    image = image.uv_pip_install(*wanted, *containers.pip)
    for folder in filter(_is_folder, containers.include):
        image = image.add_local_dir(folder, WORK, ignore=lambda path: not _travels(path))
    modules = [name for name in containers.include if not _is_folder(name)]
    return image.add_local_python_source(*modules) if modules else image


def _is_folder(included: str) -> bool:
    return "/" in included


def _travels(path: Path) -> bool:
    """Whether a file of an included folder, given by its path there, is sent along."""
    return not any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _variable(name: str | None) -> modal.Image | None:
    """The image that a variable of the notebook, or of a script, holds."""
    found = vars(sys.modules["__main__"]).get(name) if name is not None else None
    return found if isinstance(found, modal.Image) else None


def _torch() -> str:
    try:
        return f"torch=={importlib.metadata.version('torch').partition('+')[0]}"
    except importlib.metadata.PackageNotFoundError:
        return "torch"


def _digest(gpu: str | None, containers: Containers, nodes: int) -> str:
    made_of = hashlib.sha256(msgspec.msgpack.encode([gpu, containers, nodes]))
    made_of.update(f"{sys.version_info[:2]} {modal.__version__} {_torch()}".encode())
    for name in ("modal_magic", *containers.include):
        for path in _files(Path(name)) if _is_folder(name) else _sources(name):
            here = path.relative_to(name) if _is_folder(name) else path.name
            made_of.update(str(here).encode() + path.read_bytes())
    if containers.image is not None and Path(containers.image).is_file():
        made_of.update(Path(containers.image).read_bytes())
    return made_of.hexdigest()[:12]


def _files(folder: Path) -> list[Path]:
    """The files of a folder that are sent along. Raises UsageError where there is no such folder."""
    if not folder.is_dir():
        raise UsageError(f"--include {folder}/: there is no such folder")
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in found if _travels(path.relative_to(folder))]


def _sources(module: str) -> list[Path]:
    """The files of a module or package. Raises UsageError where there is none of this name."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise UsageError(f"--include {module}: the notebook cannot import a module of this name")
    if found.submodule_search_locations is None:
        return [Path(found.origin)]
    return [path for root in found.submodule_search_locations for path in sorted(Path(root).rglob("*.py"))]
