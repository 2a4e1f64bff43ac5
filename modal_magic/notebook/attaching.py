"""Coming back to a session: which one a notebook means, and what it has missed there."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modal_magic import registry
from modal_magic.errors import RunError, SessionError, UsageError
from modal_magic.sessions.resources import Resources
from modal_magic.sessions.run import Run
from modal_magic.sessions.session import Session
from modal_magic.view.console import follow
from modal_magic.view.picture import choose_picture
from modal_magic.view.text import TextView

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["is_attended", "name_others", "notebook_of", "refuse_for", "show_missed", "to_return_to"]


def notebook_of(shell: InteractiveShell) -> str:
    """The file of the notebook that this shell belongs to, as far as its server or VS Code says it; else empty."""
    return os.environ.get("JPY_SESSION_NAME") or str(shell.user_ns.get("__vsc_ipynb_file__", ""))


def is_deserted(name: str, resources: Resources) -> bool:
    """Whether no kernel is attached to a session. Asking takes some milliseconds."""
    try:
        session = Session.attach(name, resources, watches=True)
    except (SessionError, UsageError):
        return False
    try:
        return session.status().clients == 0
    except SessionError:
        return False
    finally:
        session.detach()


def is_attended(shell: InteractiveShell) -> bool:
    """Whether somebody sits before this shell who can answer: a front end that takes input, or a terminal."""
    kernel = getattr(shell, "kernel", None)
    return bool(sys.stdin and sys.stdin.isatty()) if kernel is None else bool(getattr(kernel, "_allow_stdin", False))


def refuse_for(resources: Resources, notebook: str, attended: bool) -> None:
    """Refuse to start a session for a line that names none, where this notebook has left one behind.

    Where nobody says which notebook it is, one that any has left behind may be meant: that is asked too, if the line is
    `attended` by somebody who can answer. Whether its user means the ranks with their variables or fresh ones only the
    user can say. Raises UsageError with both ways.
    """
    for connection in registry.living():
        own = bool(notebook) and connection.notebook == notebook
        maybe = attended and not (notebook and connection.notebook)
        if (own or maybe) and is_deserted(connection.session, resources):
            raise UsageError(
                f"session {connection.session!r}{' of this notebook' if own else ''} is still up, with its variables "
                f"and no kernel: %modal_attach {connection.session} brings it back, --session NEW starts another"
            )


def name_others(resources: Resources, notebook: str, others: Sequence[registry.Connection]) -> str:
    """Which sessions there are beside a new one, in sentences: it may be that one of these was meant.

    Those that this notebook has left behind are told apart, for they were hardly meant to go on beside it.
    """
    own = [one for one in others if notebook and one.notebook == notebook and is_deserted(one.session, resources)]
    told = [
        f"{one.session} of this notebook is still up, without a kernel: it keeps its variables"
        f"{', and costs money,' if one.backend == 'modal' else ''} until its lease is over. "
        f"%modal_attach {one.session} brings it back, %modal_stop {one.session} ends it"
        for one in own
    ]
    if rest := [one.session for one in others if one not in own]:
        told.append(f"%modal_attach NAME goes to one that is there, %modal_stop NAME ends it: {', '.join(rest)}")
    return ". ".join(told)


def to_return_to(resources: Resources, notebook: str) -> str:
    """The session that `%modal_attach` without a name means: the notebook's own, else the one without a kernel.

    Raises UsageError where there is none, or more than one.
    """
    sessions = registry.living()
    own = [found.session for found in sessions if notebook and found.notebook == notebook]
    names = own or [found.session for found in sessions]
    if len(names) > 1:
        names = [name for name in names if is_deserted(name, resources)] or names
    if not names:
        raise UsageError("there is no session to attach to: %%modal_distributed starts one")
    if len(names) > 1:
        raise UsageError(f"there are {len(names)} sessions, name one of them: {', '.join(names)}")
    return names[0]


def show_missed(session: Session, paced: bool) -> None:
    """Show what nobody has seen of the session's runs, and those that go on until their end.

    Raises what the last of them ended with; how the others failed is shown.
    """
    missed = session.unseen()
    for run in missed:
        _show(run, paced)
        try:
            run.check()
        except (RunError, UsageError) as error:
            if run is missed[-1]:
                raise
            print("\n".join(error._render_traceback_()), file=sys.stderr, flush=True)
    if not missed:
        print("nothing was missed: no run goes on, and the last one was seen to its end", flush=True)


def _show(run: Run, paced: bool) -> None:
    cell = f" of In[{run.cell}]" if run.cell else ""
    if run.old:
        print(f"The run{cell} has ended since. What nobody has seen of it:", flush=True)
    else:
        print(f"The run{cell} goes on; an interrupt interrupts it. What nobody has seen of it:", flush=True)
    picture = choose_picture(paced, run)
    follow(run, TextView(run.session.world_size), picture, paced=paced, limited=True)
