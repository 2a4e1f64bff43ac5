"""A run in the background: what it shows goes into the output of its own cell, also when that cell is long over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from modal_magic import protocol as p
from modal_magic.errors import ModalMagicError
from modal_magic.ranges import name_ranks
from modal_magic.run import Run
from modal_magic.view.console import follow
from modal_magic.view.picture import DisplayPicture
from modal_magic.view.status import seconds_in_words
from modal_magic.view.text import Part, TextView

__all__ = ["CellOutput", "attend", "ending", "exits"]


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
        if not isinstance(part, p.Display):
            name = "stderr" if part[0] == "stderr" else "stdout"
            self._send("stream", {"name": name, "text": part[1]}, f"stream.{name}")
            return
        if part.kind == "clear":
            return  # one rank must not clear what the others have shown
        display_id = part.display_id and f"rank-{part.rank}-{part.display_id}"
        self.publish(part.data, display_id, part.kind == "update", part.metadata)

    def publish(
        self, data: dict[str, Any], display_id: str | None, update: bool, metadata: dict[str, Any] | None = None
    ) -> None:
        """Add a rich output, or put it in the place of the one that has this id."""
        kind = "update_display_data" if update else "display_data"
        transient = {"display_id": display_id} if display_id else {}
        self._send(kind, {"data": data, "metadata": metadata or {}, "transient": transient}, "display_data")

    def _send(self, kind: str, content: dict[str, object], topic: str) -> None:
        self.session.send(self.socket, kind, content, parent=self.parent, ident=topic.encode())


def exits(run: Run) -> list[str]:
    """A sentence where `sys.exit` ended the cell with code 0 on some ranks: any other code is a failure."""
    left = [rank.rank for rank in run.ranks.values() if rank.exit_code == 0]
    return [f"[{name_ranks(left)}] sys.exit ended the cell with code 0"] if left else []


def ending(run: Run) -> Part:
    """How a run that is over ended: in one line, or as its failure is shown."""
    try:
        run.check()
    except ModalMagicError as error:
        return "stderr", "\n".join(error._render_traceback_()) + "\n"
    took = "" if run.view.seconds is None else f" after {seconds_in_words(run.view.seconds)}"
    return "stdout", "\n".join([*exits(run), f"run {run.id} is done{took}"]) + "\n"


def attend(run: Run, view: TextView, output: CellOutput, limited: bool, handle: str) -> None:
    """Show a run in the output of its cell until it is over, and how it ended. For a thread of its own.

    `handle` is what the notebook calls the run.
    """
    picture = DisplayPicture(run.view, run.snapshot, output.publish)
    follow(run, view, picture, paced=True, limited=limited, put=output.put, way_out=f"{handle}.interrupt()")
    output.put(ending(run))
