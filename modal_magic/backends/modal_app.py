"""The app on Modal that sessions of one kind share: what it is made of, its name, and that it is deployed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import modal
import msgspec

import modal_magic
from modal_magic.backends.base import Containers
from modal_magic.backends.modal_node import PRELOAD, ColdNode, Gateway, Node

__all__ = ["deployed", "node_class"]

LONGEST_SECONDS = 24 * 3600
"""How long one call may serve: Modal's limit for a function."""
BESIDE = ("ipython", "msgspec", "nest-asyncio2", "pyzmq", "numpy")
"""What ranks, agents and the gateway need beside torch, in the notebook's own versions."""


def node_class(containers: Containers) -> str:
    """The name of the class that nodes are of."""
    return ColdNode.__name__ if containers.snapshot == "off" else Node.__name__


def deployed(containers: Containers) -> str:
    """The name of the deployed app for such containers; it is deployed if it is not yet.

    The name holds a hash of all that the app is made of, our own source included, so that an app that is there under
    it is the one that is wanted.
    """
    name = f"modal-magic-{_digest(containers)}"
    try:
        modal.App.lookup(name)
    except modal.exception.NotFoundError:
        app = modal.App(name)
        image = _image(containers)
        common: dict[str, Any] = {
            "image": image,
            "region": containers.region,
            "cloud": containers.cloud,
            "i6pn": containers.i6pn,
            "timeout": LONGEST_SECONDS,
            "startup_timeout": containers.startup_timeout,
        }
        app.cls(**common, single_use_containers=True, nonpreemptible=True)(Gateway)
        app.cls(**common, **_of_nodes(containers))(ColdNode if containers.snapshot == "off" else Node)
        app.deploy()
    return name


def _of_nodes(containers: Containers) -> dict[str, Any]:
    """The arguments of `App.cls` for the class of nodes."""
    found: dict[str, Any] = {
        "gpu": list(containers.gpus) if len(containers.gpus) > 1 else next(iter(containers.gpus), None),
        "env": {PRELOAD: ",".join(containers.preload)},
        "enable_memory_snapshot": containers.snapshot != "off",
    }
    if containers.snapshot == "gpu":
        found["experimental_options"] = {"enable_gpu_snapshot": True}
    if containers.scaledown is None:
        found["single_use_containers"] = True
    else:
        found["scaledown_window"] = round(containers.scaledown)
    return found


def _image(containers: Containers) -> modal.Image:
    """The image: a slim Debian with this notebook's Python and the versions that it has."""
    python = containers.python or f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in BESIDE]
    return modal.Image.debian_slim(python_version=python).uv_pip_install(_torch(), *wanted, *containers.pip)


def _torch() -> str:
    try:
        return f"torch=={importlib.metadata.version('torch').partition('+')[0]}"
    except importlib.metadata.PackageNotFoundError:
        return "torch"


def _digest(containers: Containers) -> str:
    made_of = hashlib.sha256(msgspec.msgpack.encode(containers))
    made_of.update(f"{sys.version_info[:2]} {modal.__version__} {_torch()}".encode())
    root = Path(modal_magic.__file__).parent
    for path in sorted(root.rglob("*.py")):
        made_of.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return made_of.hexdigest()[:12]
