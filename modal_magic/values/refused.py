"""A value that makes no sense, and what would."""

from __future__ import annotations

__all__ = ["Refused"]


class Refused(ValueError):
    """A value makes no sense. The text says what is allowed; `instead` is a value that would do, None if none is near.

    `modal_magic.reading.read_value` makes a `UsageError` of it.
    """

    def __init__(self, reason: str, instead: object = None) -> None:
        super().__init__(reason)
        self.instead = instead
