"""What a zygote imports before any fork: what ranks would import anyway, and our own rooms that they live in."""

from __future__ import annotations

import gc
import importlib
import sys

from modal_magic.node import shell

__all__ = ["preimport"]

PREIMPORTS = (
    "numpy",
    "torch",
    "torch.distributed",
    "torch.nn.parallel.distributed",
    "torch.distributed.tensor",
    "torch._dynamo",
    "torch.optim",
    "torch.utils.data",
    "torch.profiler",
)
"""What ranks would import anyway; torch._dynamo alone takes a second at the first DDP(...) or optimizer otherwise."""

OURS = (
    "modal_magic.node.worker",
    "modal_magic.node.agent",
    "modal_magic.gateway.serving",
    "modal_magic.frameworks.torch",
)
"""Our own rooms that the forked processes live in."""


def preimport(preload: list[str]) -> list[str]:
    """Import what ranks need, and `preload`, and freeze it: a child's garbage collection copies no page.

    Returns what is missing.
    """
    missing = []
    gc.disable()  # imports make next to no garbage, and collecting it would take half a second
    for name in (*PREIMPORTS, *OURS, *preload):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing.append(error.name or name)
        except Exception as error:  # a broken installation is the rank's to report, with its own traceback
            print(f"modal_magic: {name} could not be imported: {error!r}", file=sys.stderr)
    shell.rehearse()
    gc.freeze()
    gc.enable()
    return missing
