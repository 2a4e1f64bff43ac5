"""What `%load_ext modal_magic` does to a shell, and how it is undone."""

from __future__ import annotations

import atexit
from collections.abc import Callable

from IPython.core.interactiveshell import InteractiveShell

from modal_magic import registry
from modal_magic.notebook import completion
from modal_magic.notebook.magics import ModalMagics

__all__ = ["load", "unload"]

LEFT = "modal_magic"
"""Where `unload` leaves the names of sessions in the shell's `meta`, for the `load` that follows in `%reload_ext`."""


def watch_end(shell: InteractiveShell, ends: Callable[[], None], leaves: Callable[[], None]) -> None:
    """Have `ends` called when this kernel is shut down and not restarted; without a kernel, when Python exits.

    Only the request says which of the two it is. It may come in a thread of the kernel's own while a cell runs.
    `leaves` is called in both cases, but not without a kernel.
    """
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        atexit.register(ends)
        return
    shut_down = kernel.do_shutdown

    def do_shutdown(restart: bool) -> object:
        if not restart:
            ends()
        leaves()
        return shut_down(restart)

    kernel.do_shutdown = do_shutdown


def unwatch_end(shell: InteractiveShell, ends: Callable[[], None]) -> None:
    """Undo `watch_end`."""
    atexit.unregister(ends)
    vars(getattr(shell, "kernel", shell)).pop("do_shutdown", None)


def _loaded(shell: InteractiveShell) -> ModalMagics | None:
    found = shell.magics_manager.registry.get("ModalMagics")
    return found if isinstance(found, ModalMagics) else None


def load(shell: InteractiveShell) -> None:
    """Register magics and completion, and have a zygote import torch in the background."""
    if _loaded(shell) is not None:
        return
    magics = ModalMagics(shell)
    if left := shell.meta.pop(LEFT, None):
        magics.sessions.resume(*left)
    shell.register_magics(magics)
    shell.events.register("post_run_cell", magics.after_cell)
    completion.install(shell, registry.names)
    atexit.register(magics.close)
    watch_end(shell, magics.sessions.kernel_ends, magics.sessions.kernel_leaves)
    magics.resources.prepare()


def unload(shell: InteractiveShell) -> None:
    """Take the magics out again and leave no thread or process of this kernel.

    The names of its sessions stay with the shell: the notebook has them again when the magics are loaded again.
    """
    magics = _loaded(shell)
    if magics is None:
        return
    completion.uninstall(shell)
    shell.events.unregister("post_run_cell", magics.after_cell)
    for kind in ("line", "cell"):
        for name in magics.magics[kind]:
            shell.magics_manager.magics[kind].pop(name, None)
    del shell.magics_manager.registry["ModalMagics"]
    unwatch_end(shell, magics.sessions.kernel_ends)
    atexit.unregister(magics.close)
    shell.meta[LEFT] = magics.sessions.names
    magics.close()
