"""The exception tree: everything modal_magic raises on purpose.

ModalMagicError
├── UsageError            what was typed cannot be done; nothing was started, nothing was lost
│   └── CellSyntaxError   the cell is not Python
├── SessionError          a session cannot be started or reached
│   ├── GatewayBusy       its gateway does not answer, and is not known to be gone
│   ├── VersionMismatch   another version of modal_magic has started it
│   └── SessionGone       there is no such session any more
│       ├── SessionClosed it ended (stopped, lease over) while somebody still used it
│       └── GatewayLost   its gateway is gone
└── RunError              a run did not end well; `.run` is the run
    ├── RankFailed        at least one rank raised or was lost
    └── RunInterrupted    the run was interrupted
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modal_magic.view.model import RunView

__all__ = [
    "CellSyntaxError",
    "GatewayBusy",
    "GatewayLost",
    "ModalMagicError",
    "RankFailed",
    "RunError",
    "RunInterrupted",
    "SessionClosed",
    "SessionError",
    "SessionGone",
    "UsageError",
    "VersionMismatch",
]


class ModalMagicError(Exception):
    """Root of the tree: `except ModalMagicError` catches all that modal_magic raises on purpose.

    Shown in a notebook as its message alone: the frames of this package would tell the reader nothing.
    """

    def _render_traceback_(self) -> list[str]:
        """The lines IPython shows in place of a traceback (the protocol of `IPython.core.interactiveshell`)."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(ModalMagicError):
    """What was typed cannot be done. One line says why and what to do; nothing was started and nothing was lost."""


class CellSyntaxError(UsageError):
    """The cell is not Python; shown as Python shows a SyntaxError, with the lines of the notebook's gutter."""

    def _render_traceback_(self) -> list[str]:
        return str(self).splitlines()


class SessionError(ModalMagicError):
    """A session cannot be started or reached."""


class GatewayBusy(SessionError):
    """The gateway of the session does not answer, and is not known to be gone: nothing is lost yet."""


class VersionMismatch(SessionError):
    """The session was started by a version of modal_magic that speaks another protocol than this one."""


class SessionGone(SessionError):
    """There is no such session any more."""


class SessionClosed(SessionGone):
    """The session ended while somebody still used it."""


class GatewayLost(SessionGone):
    """The gateway of the session is gone."""


class RunError(ModalMagicError):
    """A run did not end well. `run` is the run as it was at its end; `rendered` holds the lines a notebook shows."""

    def __init__(self, message: str, run: RunView, rendered: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.run = run
        self.rendered = rendered

    def _render_traceback_(self) -> list[str]:
        return list(self.rendered) or super()._render_traceback_()


class RankFailed(RunError):
    """At least one rank raised or was lost. The text leads with the first true cause, its rank and its cell line."""


class RunInterrupted(RunError):
    """The run was interrupted, by the kernel's interrupt or by another client of the session."""
