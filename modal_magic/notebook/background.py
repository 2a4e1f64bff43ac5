"""A run in the background: what it shows goes into the output of its own cell, also when that cell is long over."""

from __future__ import annotations

from modal_magic.errors import ModalMagicError
from modal_magic.ranges import name_ranks
from modal_magic.sessions.run import Run
from modal_magic.view.cell_output import CellOutput
from modal_magic.view.console import follow
from modal_magic.view.picture import DisplayPicture
from modal_magic.view.status import seconds_in_words
from modal_magic.view.text import Part, TextView

__all__ = ["attend", "ending", "exits"]


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
