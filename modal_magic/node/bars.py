"""The bars of tqdm and rich on a rank: told to a reporter instead of written, with no change to the code of a cell."""

from __future__ import annotations

import contextlib
import copy
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from modal_magic.node.progress import INTERVAL_SECONDS, Reporter

__all__ = ["install"]


class Silent:
    """Where a bar that is told writes: nowhere. It says that it is a terminal, so `disable=None` keeps the bar."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Take a text, and drop it."""
        return len(text)

    def flush(self) -> None:
        """There is nothing to flush."""

    def isatty(self) -> bool:
        """A bar is wanted here."""
        return True


def _tell_tqdm(module: ModuleType, reporter: Reporter) -> None:
    """Have the bars of tqdm.std, and of all classes made from it, told instead of written.

    A bar that the code sends to a file of its own is left alone. tqdm itself decides how often a bar is shown; an
    iteration costs what it costs without us.
    """
    tqdm = module.tqdm
    begin, show, close = tqdm.__init__, tqdm.display, tqdm.close

    def __init__(self: Any, *arguments: Any, **options: Any) -> None:
        position = 4  # iterable, desc, total, leave, file
        given = arguments[position] if len(arguments) > position else options.get("file")
        if given in (None, sys.stdout, sys.stderr):
            self.modal_magic_bar = next(reporter.numbers)
            if len(arguments) > position:
                arguments = (*arguments[:position], Silent(), *arguments[position + 1 :])
            else:
                options["file"] = Silent()
            interval = options.get("mininterval", INTERVAL_SECONDS)
            if isinstance(interval, int | float):
                options["mininterval"] = max(interval, reporter.interval)
        begin(self, *arguments, **options)

    def display(self: Any, msg: str | None = None, pos: int | None = None) -> Any:
        number = getattr(self, "modal_magic_bar", None)
        if number is None:
            return show(self, msg, pos)
        if msg is None:
            reporter.move(number, self.desc.removesuffix(": "), self.n, self.total)
        return True

    def end(self: Any) -> None:
        number = getattr(self, "modal_magic_bar", None)
        if number is not None and not getattr(self, "disable", True):
            reporter.move(number, self.desc.removesuffix(": "), self.n, self.total, ended=True)
            self.modal_magic_bar = None
            self.sp = None  # tqdm takes a bar without printer for one of a window, and writes no last word
        close(self)

    tqdm.__init__, tqdm.display, tqdm.close = __init__, display, end


def _tell_tqdm_notebook(module: ModuleType, reporter: Reporter) -> None:
    """Have `tqdm.notebook` make the same bars: a rank has no widgets."""
    from tqdm.std import tqdm, trange

    for name in ("tqdm", "tqdm_notebook"):
        setattr(module, name, tqdm)
    for name in ("trange", "tnrange"):
        setattr(module, name, trange)


def _calm_rich(module: ModuleType, reporter: Reporter) -> None:
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


def _tell_rich(module: ModuleType, reporter: Reporter) -> None:
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


TELLING: dict[str, Callable[[ModuleType, Reporter], None]] = {
    "tqdm.std": _tell_tqdm,
    "tqdm.notebook": _tell_tqdm_notebook,
    "rich.live": _calm_rich,
    "rich.progress": _tell_rich,
}
"""What is done to a module when a cell imports it."""


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules as the others do, and has those of `TELLING` changed once they are loaded."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module that is to be changed, with a loader that does so."""
        if fullname not in TELLING:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)) is not None:
                loader = spec.loader
                if isinstance(loader, importlib.abc.Loader):
                    self._wrap(loader, fullname)
                return spec
        return None

    def _wrap(self, loader: importlib.abc.Loader, name: str) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            with contextlib.suppress(AttributeError, ImportError):  # a version that is made otherwise writes its text
                TELLING[name](module, self._reporter)

        loader.exec_module = exec_module  # type: ignore[method-assign]


def install(reporter: Reporter) -> None:
    """Have the bars of this process told from now on, those of modules that are not imported yet too."""
    for name, tell in TELLING.items():
        if (module := sys.modules.get(name)) is not None:
            tell(module, reporter)
    sys.meta_path.insert(0, _Finder(reporter))
