"""What the sessions of one process share: the thread of their links, and the backends that start them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from modal_magic.backends.base import Backend
from modal_magic.errors import UsageError
from modal_magic.links.thread import LinkThread

__all__ = ["Resources", "choose_backend"]


def choose_backend(name: str) -> str:
    """`local` or `modal`; auto is Modal where a token is configured, as Modal's own client finds one."""
    if name != "auto":
        return name
    configured = Path(os.environ.get("MODAL_CONFIG_PATH") or "~/.modal.toml").expanduser()
    has_token = "MODAL_TOKEN_ID" in os.environ or (configured.is_file() and "token_id" in configured.read_text())
    return "modal" if has_token else "local"


class Resources:
    """What the sessions of one process share: a thread and the backends. Close it to leave nothing behind."""

    def __init__(self, backends: Mapping[str, Backend] | None = None) -> None:
        self.links = LinkThread()
        self._backends: dict[str, Backend] = dict(backends or {})

    def backend(self, name: str) -> Backend:
        """The backend of this name. Raises UsageError where it cannot be had."""
        if name not in self._backends:
            if name == "modal":
                from modal_magic.backends.modal import ModalBackend

                self._backends[name] = ModalBackend()
                return self._backends[name]
            if os.name == "nt":
                raise UsageError("the local backend runs on Linux and macOS: on Windows, use WSL")
            from modal_magic.backends.local import LocalBackend

            self._backends[name] = LocalBackend()
        return self._backends[name]

    def has_used(self, name: str) -> bool:
        """Whether the backend of this name is there already."""
        return name in self._backends

    def prepare(self, name: str = "local") -> None:
        """Have a backend do in the background what the next session can be spared."""
        with contextlib.suppress(UsageError, OSError):
            self.backend(name).prepare()

    def close(self) -> None:
        """End the thread of their links, and let go of what no session took."""
        for backend in self._backends.values():
            backend.close()
        self.links.close()
