"""The Jupyter Server extension: every session of this user on this machine, over REST and one stream of changes."""

from __future__ import annotations

from typing import Any

__all__ = ["_jupyter_server_extension_points"]


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """What Jupyter asks a package for (jupyter_server, "Authoring a basic server extension")."""
    from modal_magic.server.app import ModalMagicApp

    return [{"module": "modal_magic.server", "app": ModalMagicApp}]
