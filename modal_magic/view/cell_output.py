"""The output of a cell: where text and rich outputs of ranks go, while the cell runs and when it is long over."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from modal_magic import protocol as p
from modal_magic.view.numbers import PLAIN
from modal_magic.view.text import Part

__all__ = ["CellOutput", "publish_here", "show"]

Publish = Callable[[dict[str, Any], str | None, bool, dict[str, Any] | None], None]
"""Puts data by their MIME types, under a display id where there is one; True where that is shown already. Metadata."""


def _put(part: Part, write: Callable[[str, str], None], publish: Publish) -> None:
    if not isinstance(part, p.Display):
        write("stderr" if part[0] == "stderr" else "stdout", part[1])
    elif part.kind != "clear":  # one rank must not clear what the others have shown
        display_id = part.display_id and f"rank-{part.rank}-{part.display_id}"
        publish(part.data, display_id, part.kind == "update", part.metadata)


def show(part: Part) -> None:
    """Put text or a rich output into the output of the cell that runs now."""
    _put(part, _write_here, publish_here)


def publish_here(
    data: dict[str, Any], display_id: str | None, update: bool, metadata: dict[str, Any] | None = None
) -> None:
    """Put a rich output into the output of the cell that runs now."""
    from IPython.display import publish_display_data

    transient = {"display_id": display_id} if display_id else None
    publish_display_data(data, metadata, transient=transient, update=update)


def _write_here(stream: str, text: str) -> None:
    target = sys.stderr if stream == "stderr" else sys.stdout
    try:
        target.write(text)
    except UnicodeEncodeError:  # a terminal of another encoding than UTF-8
        encoding = target.encoding or "ascii"
        target.write(text.translate(PLAIN).encode(encoding, "backslashreplace").decode(encoding))
    target.flush()


class Messenger(Protocol):
    """What is used of a kernel's session (`jupyter_client.session.Session`)."""

    def send(
        self, stream: object, msg_or_type: str, content: dict[str, object], parent: object, ident: bytes
    ) -> object:
        """Send a message about the request `parent`."""


@dataclass(frozen=True, slots=True)
class CellOutput:
    """The output of one cell of a notebook, from any thread and at any time.

    What a thread prints would go to the cell that happens to run. Front ends put a message where its parent belongs.
    """

    session: Messenger
    socket: object
    parent: object

    @classmethod
    def of(cls, shell: object) -> CellOutput | None:
        """That of the cell that runs in this shell now; None outside Jupyter, where a cell has no output of its own."""
        kernel = getattr(shell, "kernel", None)
        return None if kernel is None else cls(kernel.session, kernel.iopub_socket, kernel.get_parent("shell"))

    def put(self, part: Part) -> None:
        """Add text or a rich output."""
        _put(part, self._write, self.publish)

    def publish(
        self, data: dict[str, Any], display_id: str | None, update: bool, metadata: dict[str, Any] | None = None
    ) -> None:
        """Add a rich output, or put it in the place of the one that has this id."""
        kind = "update_display_data" if update else "display_data"
        transient = {"display_id": display_id} if display_id else {}
        self._send(kind, {"data": data, "metadata": metadata or {}, "transient": transient}, "display_data")

    def _write(self, stream: str, text: str) -> None:
        self._send("stream", {"name": stream, "text": text}, f"stream.{stream}")

    def _send(self, kind: str, content: dict[str, object], topic: str) -> None:
        self.session.send(self.socket, kind, content, parent=self.parent, ident=topic.encode())
