"""What a notebook is told beside the output of its cells: notices of sessions, and how runs in the background ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from modal_magic.notebook.background import ending
from modal_magic.sessions.run import Run
from modal_magic.sessions.session import Session
from modal_magic.view.cell_output import CellOutput, show

__all__ = ["Notices", "say"]


def say(text: str) -> None:
    """A sentence of ours in the cell's output."""
    print(text, flush=True)


class Notices:
    """Tells them with the next cell, or at once below the last one where that can be done.

    `latest` is the output of the last cell of ours, None outside Jupyter. `untold` are runs whose end is to be told.
    """

    def __init__(self) -> None:
        self.latest: CellOutput | None = None
        self.untold: list[Run] = []
        self._at_work = False

    @contextlib.contextmanager
    def at_work(self, shell: object) -> Iterator[None]:
        """While a cell of ours runs in this shell: it tells what there is to tell when it ends."""
        self.latest, self._at_work = CellOutput.of(shell), True
        try:
            yield
        finally:
            self._at_work = False

    def alert(self, text: str) -> bool:
        """Tell a notice at once, below the last cell, where none is at work that would tell it. Whether it was told."""
        if self._at_work or self.latest is None:
            return False
        self.latest.put(("stderr", f"{text}\n"))
        return True

    def tell(self, session: Session) -> None:
        """Pass on what the session has to say, and how runs in the background have ended that was not told yet."""
        while not session.notices.empty():
            say(session.notices.get())
        self.tell_ended()

    def tell_ended(self) -> None:
        """Say how runs in the background have ended that was not told yet."""
        for run in [run for run in self.untold if run.done]:
            self.untold.remove(run)
            show(ending(run))
