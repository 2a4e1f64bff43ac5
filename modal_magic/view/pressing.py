"""What is pressed in a widget: asked of the session of its run, and answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from modal_magic import protocol as p
from modal_magic.errors import ModalMagicError
from modal_magic.view.newest import LogLine, NewestLines
from modal_magic.view.stack import SHOWN_FRAMES, stacks_as_data

if TYPE_CHECKING:
    from modal_magic.sessions.run import Run

__all__ = ["Pressing", "Question"]


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """What a widget asks; `number` comes back with the answer. Of a log: which rank's (None: all), after which line."""

    number: int
    what: Literal["interrupt", "stop", "stacks", "log"]
    rank: int | None = None
    after: int = 0


class Pressing:
    """Answers the widget of a run. A class because the lines of its log are put together as they are asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lines = NewestLines()
        self._seen = 0

    def answer(self, content: object) -> dict[str, object] | None:
        """The answer to what a widget has sent, None where that is no question."""
        try:
            question = msgspec.convert(content, Question)
        except msgspec.ValidationError:
            return None
        try:
            return {"number": question.number, "value": self._value(question)}
        except ModalMagicError as error:
            return {"number": question.number, "error": str(error)}

    def _value(self, question: Question) -> object:
        session = self._run.session
        match question.what:
            case "interrupt":
                self._run.interrupt()
            case "stop":
                session.end("it was stopped from the view of a cell")
            case "stacks":
                return stacks_as_data(session.stacks(SHOWN_FRAMES))
            case "log":
                return {"lines": self._log(question.rank, question.after), "total": self._lines.total(question.rank)}
        return {}

    def _log(self, rank: int | None, after: int) -> list[LogLine]:
        shown = self._run.view.shown
        upto = len(shown)
        for part in shown[self._seen : upto]:
            if isinstance(part, p.Output):
                self._lines.take(None, part.rank, part.stream, part.text)
        self._seen = upto
        return self._lines.after(after, rank)
