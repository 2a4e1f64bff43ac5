"""The bars of tqdm and rich on a rank: told to a reporter instead of written, with no change to the code of a cell."""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from modal_magic.node.progress import INTERVAL_SECONDS, Reporter
from modal_magic.node.rich_bars import calm_rich, tell_rich

__all__ = ["install"]

NUMBERED = re.compile(r"([^\s,;|=:]+)\s*[=:]\s*([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)(?=$|[\s,;|])", re.IGNORECASE)
"""`loss=0.5` or `loss: 5e-1` in a text."""


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
    for name in ("set_description", "set_description_str", "set_postfix", "set_postfix_str"):
        setattr(tqdm, name, _told_setter(name, getattr(tqdm, name), reporter))


def _told_setter(name: str, setter: Callable[..., None], reporter: Reporter) -> Callable[..., None]:
    """One of tqdm's methods that set a text: it shows the bar as often as bars are told, and numbers are metrics."""

    @functools.wraps(setter)
    def told(self: Any, *arguments: Any, **options: Any) -> None:
        number = getattr(self, "modal_magic_bar", None)
        if number is None or self.disable:
            return setter(self, *arguments, **options)
        if not reporter.may_move(number):
            arguments, options = arguments[:1], {**options, "refresh": False}
        setter(self, *arguments, **options)
        if name == "set_postfix":
            given = arguments[0] if arguments else options.pop("ordered_dict", None)
            options.pop("refresh", None)
            reporter.report(None, None, {**(given or {}), **options})
        elif name == "set_postfix_str":
            reporter.report(None, None, dict(NUMBERED.findall(self.postfix)))
        return None

    return told


def _tell_tqdm_notebook(module: ModuleType, reporter: Reporter) -> None:
    """Have `tqdm.notebook` make the same bars: a rank has no widgets."""
    from tqdm.std import tqdm, trange

    for name in ("tqdm", "tqdm_notebook"):
        setattr(module, name, tqdm)
    for name in ("trange", "tnrange"):
        setattr(module, name, trange)


TELLING: dict[str, Callable[[ModuleType, Reporter], None]] = {
    "tqdm.std": _tell_tqdm,
    "tqdm.notebook": _tell_tqdm_notebook,
    "rich.live": calm_rich,
    "rich.progress": tell_rich,
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
