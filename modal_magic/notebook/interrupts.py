"""An interrupt of a magic, as the notebook shows it: one line that says what became of what was begun."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

__all__ = ["Interrupted", "interrupted_as"]


class Interrupted(KeyboardInterrupt):
    """The kernel's interrupt, of which it is known what it has interrupted: the frames of this package say less."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


Interrupted.__name__ = KeyboardInterrupt.__name__  # which is what notebooks show, and what their readers look for


@contextlib.contextmanager
def interrupted_as(tell: Callable[[], str]) -> Iterator[None]:
    """Have an interrupt of what is done here say what `tell` gives then, unless it says something already."""
    try:
        yield
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted(tell()) from None
