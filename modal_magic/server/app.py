"""What a Jupyter server starts and ends: the routes, and the sessions that they show."""

from __future__ import annotations

from jupyter_server.extension.application import ExtensionApp

from modal_magic.server.handlers import routes
from modal_magic.server.hub import Hub

__all__ = ["ModalMagicApp"]


class ModalMagicApp(ExtensionApp):
    """The extension of a server."""

    name = "modal_magic"

    def initialize_settings(self) -> None:
        """Sessions are looked for when the first route is asked."""
        self.settings["modal_magic_hub"] = Hub()

    def initialize_handlers(self) -> None:
        """Add the routes."""
        self.handlers.extend(routes())

    async def stop_extension(self) -> None:
        """Let go of all sessions; they live on."""
        hub: Hub = self.settings["modal_magic_hub"]
        await hub.close()
