"""The picture of a run that goes on: a display in a notebook, a block in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from modal_magic.view.cell_output import publish_here, show
from modal_magic.view.model import RunView
from modal_magic.view.pressing import Pressing
from modal_magic.view.saved import as_html, as_plain, progress_line
from modal_magic.view.snapshot import Snapshot, without_courses
from modal_magic.view.widget import VIEW, Answer, Widget, make_widget, wants_widget

if TYPE_CHECKING:
    from modal_magic.sessions.run import Run

__all__ = ["MIME", "BlockPicture", "DisplayPicture", "LinePicture", "Picture", "choose_picture"]

MIME = "application/vnd.modal-magic.session+json"
"""What the extension draws: a Snapshot as JSON."""
APPEAR_SECONDS = 1.0
"""A run is drawn when it has gone on for so long, or tells of its progress."""
WIDGET_SECONDS = 0.25
DISPLAY_SECONDS = 1.0
"""A display is sent again so often; where the extension is, it draws ten times a second without that."""
MANY_SECONDS = 5.0
MANY_RANKS = 64
"""Of more ranks than this a display is sent less often, and without the course of their metrics."""
BLOCK_SECONDS = 0.2
LINE_SECONDS = 10.0
"""The first line where nothing can be drawn anew; each next one takes half as long again."""


Publish = Callable[[dict[str, Any], str, bool], None]
"""Puts data by their MIME types under a display id; True where that is shown already."""


class Picture(Protocol):
    """Draws a run. `hide` makes room for text, `turn` draws what is due, for the last time when the run is `over`."""

    def hide(self) -> None:
        """Make room for text."""

    def turn(self, over: bool) -> float | None:
        """Draw what is due. Returns in how many seconds the next is due, None where nothing is to be drawn yet."""


class _Pace:
    """When a picture of a run is due: every so many `seconds`, which may grow."""

    def __init__(self, run: RunView, seconds: float, growth: float = 1.0) -> None:
        self.seconds, self._run, self._growth = seconds, run, growth
        self._began = 0.0
        self._last: float | None = None

    def due(self, over: bool) -> bool:
        """Whether a picture is to be drawn now; one that was never drawn is not drawn at the end either."""
        now = time.monotonic()
        if self._last is None:
            if over or self._run.status != "running":
                return False
            self._began = self._began or now
            ranks = list(self._run.ranks.values())  # another thread may add one
            told = any(rank.gauges.bars or rank.gauges.curves for rank in ranks)
            if not told and now - self._began < APPEAR_SECONDS:
                return False
        elif not over and now - self._last < self.seconds:
            return False
        if self._last is not None:
            self.seconds *= self._growth
        self._last = now
        return True

    def wait(self) -> float | None:
        """In how many seconds the next picture is due."""
        if self._run.status != "running":
            return None
        if self._last is None:
            return APPEAR_SECONDS / 4
        return max(0.01, self._last + self.seconds - time.monotonic())


class DisplayPicture:
    """A rich output of the cell, which is updated in place. `publish` is what puts it there.

    With an `answer` to what is pressed it is a widget, and only that is updated while the run goes on. At the end the
    display is without it, so that a saved notebook shows the table and not a widget that has no kernel.
    """

    def __init__(
        self,
        run: RunView,
        take: Callable[[], Snapshot],
        publish: Publish = publish_here,
        answer: Answer | None = None,
    ) -> None:
        self._run, self._take, self._publish = run, take, publish
        self._pace = _Pace(run, DISPLAY_SECONDS if answer is None else WIDGET_SECONDS)
        self._shown = False
        self._answer = answer
        self._widget: Widget | None = None

    def hide(self) -> None:
        """Text has a place of its own in a notebook."""

    def turn(self, over: bool) -> float | None:
        """Draw what is due."""
        if self._widget is not None:
            self._widget.hear()
        if self._pace.due(over):
            shot = self._take()
            if len(shot.ranks) > MANY_RANKS:
                self._pace.seconds = MANY_SECONDS
            data = bundle(shot)
            if self._answer is not None and not over:
                if self._widget is not None:
                    self._widget.shot = data[MIME]
                    return self._pace.wait()
                self._widget = make_widget(data[MIME], self._answer)
                data[VIEW] = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
            self._publish(data, f"modal-magic-{self._run.run}", self._shown)
            self._shown = True
            if over and self._widget is not None:
                self._widget.close()
        return self._pace.wait()


class BlockPicture:
    """A block of lines at the end of a terminal, which is drawn anew."""

    def __init__(self, run: RunView, take: Callable[[], Snapshot]) -> None:
        self._run, self._take = run, take
        self._pace = _Pace(run, BLOCK_SECONDS)
        self._lines: list[str] = []
        self._height = 0

    def hide(self) -> None:
        """Take the block away, so that text comes before it."""
        if self._height:
            # The terminal has written `^C` where the cursor stood, so it may be anywhere in its line.
            sys.stdout.write(f"\r\x1b[{self._height}A\x1b[J")
            sys.stdout.flush()
            self._height = 0

    def turn(self, over: bool) -> float | None:
        """Draw what is due, and again what text has taken the place of."""
        if due := self._pace.due(over):
            size = shutil.get_terminal_size()
            unicode = (sys.stdout.encoding or "").lower().startswith("utf")
            self._lines = as_plain(self._take(), size.columns - 1, unicode).splitlines()[: max(1, size.lines - 2)]
        if self._lines and (due or not self._height):
            self.hide()
            sys.stdout.write("".join(f"{line}\n" for line in self._lines))
            sys.stdout.flush()
            self._height = len(self._lines)
        return self._pace.wait()


class LinePicture:
    """A line now and then, where nothing can be drawn anew."""

    def __init__(self, run: RunView, take: Callable[[], Snapshot]) -> None:
        self._run, self._take = run, take
        self._pace = _Pace(run, LINE_SECONDS, growth=1.5)

    def hide(self) -> None:
        """Lines stay."""

    def turn(self, over: bool) -> float | None:
        """Write the line that is due."""
        if self._pace.due(over):
            show(("stdout", f"{progress_line(self._take())}\n"))
        return self._pace.wait()


def choose_picture(in_jupyter: bool, run: Run) -> Picture:
    """The picture that fits where the output goes."""
    if in_jupyter:
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
        widget = shell is not None and wants_widget(shell.user_ns)
        return DisplayPicture(run.view, run.snapshot, answer=Pressing(run).answer if widget else None)
    return (BlockPicture if sys.stdout.isatty() else LinePicture)(run.view, run.snapshot)


def bundle(shot: Snapshot) -> dict[str, Any]:
    """A snapshot in every form that a front end may know."""
    small = without_courses(shot) if len(shot.ranks) > MANY_RANKS else shot
    data = msgspec.json.decode(msgspec.json.encode(small))  # a NaN becomes null, for JSON has none
    return {MIME: data, "text/html": as_html(shot), "text/plain": as_plain(shot)}
