"""The bars of rich on a rank: told to a reporter, and nothing of rich drawn anew in a stream that only goes on."""

from __future__ import annotations

import copy
import sys
from types import ModuleType
from typing import Any

from modal_magic.node.progress import Reporter

__all__ = ["calm_rich", "tell_rich"]


def calm_rich(module: ModuleType, reporter: Reporter) -> None:
    """Have what rich draws again and again (Live, Status, Progress) put out as into a file: its last state, once.

    The kernel's environment says FORCE_COLOR, so rich takes the stream of a rank for a terminal, where lines can be
    drawn anew. Colours, and what is printed meanwhile, stay as they are: the console's own settings are not touched.
    """
    live = module.Live
    begin, end = live.__init__, live.stop

    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self.modal_magic_calm = self.console.file in (sys.stdout, sys.stderr)
        if self.modal_magic_calm:
            calm = copy.copy(self.console)
            calm._force_terminal, calm.is_interactive, calm.is_jupyter = False, False, False
            calm._render_hooks, calm._live_stack, calm._live = [], [], None  # the last one is of rich before 14.1
            self.console = calm

    def stop(self: Any) -> None:
        shown = self._started and getattr(self, "modal_magic_calm", False) and not self.transient
        end(self)
        if shown and self._live_render.last_render_height:
            self.console.line()

    live.__init__, live.stop = __init__, stop


def tell_rich(module: ModuleType, reporter: Reporter) -> None:
    """Have the tasks of a rich.progress.Progress told; rich asks for them ten times a second."""
    progress, text = module.Progress, module.Text
    begin, get_renderable = progress.__init__, progress.get_renderable

    def move(number: int, task: Any, ended: bool) -> None:
        label = text.from_markup(str(task.description)).plain
        reporter.move(number, label, task.completed, task.total, ended=ended)

    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self.modal_magic_bars = {} if self.live.console.file in (sys.stdout, sys.stderr) else None
        if self.modal_magic_bars is not None:
            self.live.transient = True  # or rich writes an empty table at the end

    def renderable(self: Any) -> Any:
        bars = getattr(self, "modal_magic_bars", None)
        if bars is None:
            return get_renderable(self)
        for task in self.tasks:
            number, ended = bars[task.id] if task.id in bars else (next(reporter.numbers), False)
            if not ended and task.started:
                bars[task.id] = number, task.finished
                move(number, task, task.finished)
        return ""

    def stop(self: Any) -> None:
        bars: dict[int, tuple[int, bool]] | None = getattr(self, "modal_magic_bars", None)
        self.live.stop()
        if bars is None:
            return
        for task in self.tasks:
            number, ended = bars[task.id] if task.id in bars else (next(reporter.numbers), False)
            if not ended:
                bars[task.id] = number, True
                move(number, task, True)

    progress.__init__, progress.get_renderable, progress.stop = __init__, renderable, stop
