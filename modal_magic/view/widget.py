"""The view as a widget, for front ends that have no extension of ours: VS Code and Colab, where anywidget is there."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from modal_magic.view.hearing import hear

__all__ = ["VIEW", "Answer", "Widget", "make_widget", "wants_widget"]

VIEW = "application/vnd.jupyter.widget-view+json"
STATIC = Path(__file__).resolve().parents[1] / "static"
IN_VSCODE = "__vsc_ipynb_file__"
"""A name that VS Code puts into the namespace of every notebook's kernel."""

Answer = Callable[[object], dict[str, object] | None]
"""The answer to what a widget has sent, None where there is none."""


class Widget(Protocol):
    """What is used of the widget: `shot` is what it draws."""

    shot: dict[str, Any]
    model_id: str

    def hear(self) -> None:
        """Answer what was pressed since, though a cell runs. For the thread of that cell."""

    def close(self) -> None:
        """Take it out of the front end."""


def wants_widget(namespace: dict[str, Any]) -> bool:
    """Whether the front end of a kernel draws widgets and not our own MIME type, and anywidget is installed."""
    foreign = IN_VSCODE in namespace or "google.colab" in sys.modules
    return foreign and (STATIC / "widget.js").exists() and importlib.util.find_spec("anywidget") is not None


def make_widget(shot: dict[str, Any], answer: Answer) -> Widget:
    """A widget that draws this snapshot, and then each that is put into its `shot`."""
    import anywidget
    import traitlets
    from IPython.core.getipython import get_ipython

    class SessionWidget(anywidget.AnyWidget):
        _esm = STATIC / "widget.js"
        _css = STATIC / "widget.css"
        shot = traitlets.Dict().tag(sync=True)

        def hear(self) -> None:
            if (kernel := getattr(get_ipython(), "kernel", None)) is not None:
                hear(kernel, self.model_id)

    def reply(widget: Any, content: object, buffers: object) -> None:
        if (told := answer(content)) is not None:
            widget.send(told)

    with contextlib.suppress(Exception):  # in Colab widgets from elsewhere are off until this is said
        sys.modules["google.colab"].output.enable_custom_widget_manager()
    made = SessionWidget(shot=shot)
    made.on_msg(reply)
    widget: Widget = made
    return widget
