"""What `%load_ext modal_magic` does to a shell, and how it is undone."""

from __future__ import annotations

import atexit

from IPython.core.interactiveshell import InteractiveShell

from modal_magic import completion, registry
from modal_magic.magics import ModalMagics

__all__ = ["load", "unload"]


def _loaded(shell: InteractiveShell) -> ModalMagics | None:
    found = shell.magics_manager.registry.get("ModalMagics")
    return found if isinstance(found, ModalMagics) else None


def load(shell: InteractiveShell) -> None:
    """Register magics and completion, and have a zygote import torch in the background."""
    if _loaded(shell) is not None:
        return
    magics = ModalMagics(shell)
    shell.register_magics(magics)
    completion.install(shell, registry.names)
    atexit.register(magics.close)
    magics.resources.prepare()


def unload(shell: InteractiveShell) -> None:
    """Take the magics out again and leave no thread or process of this kernel."""
    magics = _loaded(shell)
    if magics is None:
        return
    completion.uninstall(shell)
    for kind in ("line", "cell"):
        for name in magics.magics[kind]:
            shell.magics_manager.magics[kind].pop(name, None)
    del shell.magics_manager.registry["ModalMagics"]
    atexit.unregister(magics.close)
    magics.close()
