"""The view as a widget, for front ends that have no extension of ours: VS Code and Colab, where anywidget is there."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, Protocol

__all__ = ["VIEW", "Widget", "make_widget", "wants_widget"]

VIEW = "application/vnd.jupyter.widget-view+json"
STATIC = Path(__file__).resolve().parents[1] / "static"
IN_VSCODE = "__vsc_ipynb_file__"
"""A name that VS Code puts into the namespace of every notebook's kernel."""


class Widget(Protocol):
    """What is used of the widget: `shot` is what it draws."""

    shot: dict[str, Any]
    model_id: str

    def close(self) -> None:
        """Take it out of the front end."""


def wants_widget(namespace: dict[str, Any]) -> bool:
    """Whether the front end of a kernel draws widgets and not our own MIME type, and anywidget is installed."""
    foreign = IN_VSCODE in namespace or "google.colab" in sys.modules
    return foreign and (STATIC / "widget.js").exists() and importlib.util.find_spec("anywidget") is not None


def make_widget(shot: dict[str, Any]) -> Widget:
    """A widget that draws this snapshot, and then each that is put into its `shot`."""
    import anywidget
    import traitlets

    class SessionWidget(anywidget.AnyWidget):
        _esm = STATIC / "widget.js"
        _css = STATIC / "widget.css"
        shot = traitlets.Dict().tag(sync=True)

    with contextlib.suppress(Exception):  # in Colab widgets from elsewhere are off until this is said
        sys.modules["google.colab"].output.enable_custom_widget_manager()
    made: Widget = SessionWidget(shot=shot)
    return made
