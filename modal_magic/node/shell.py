"""The IPython shell of a rank: runs cells as a notebook would, and hands what they show to the agent."""

from __future__ import annotations

import ast
import asyncio
import atexit
import contextlib
import inspect
import os
import re
import runpy
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

from IPython.core.error import UsageError
from IPython.core.history import HistoryManager
from IPython.core.inputtransformer2 import leading_empty_lines
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from traitlets import Type
from traitlets.config import Config

from modal_magic.node.compiling import CellCompiler
from modal_magic.node.displays import RankDisplayHook, RankDisplayPublisher, as_message
from modal_magic.node.failure import is_deep, plain_traceback
from modal_magic.node.progress import Reporter
from modal_magic.node.stdio import no_debugger, renew
from modal_magic.protocol import Display

__all__ = ["RankShell", "make_shell", "rehearse"]

Publish = Callable[[Display], None]
RUN_PYTHON = ("capture", "time")
"""Magics whose body is run as it stands, and whose lines are lines of the cell."""


class RankHistory(HistoryManager):
    """In, _i and _i7 of the cells of this process, and no database."""

    def store_inputs(self, line_num: int, source: str, source_raw: str | None = None) -> None:
        """Note a cell, as it is run and as it was typed."""
        raw = self.input_hist_raw
        names = dict(zip(("_i", "_ii", "_iii"), (*reversed(raw[-3:]), "", ""), strict=False))
        self.input_hist_parsed.append(source.rstrip("\n"))
        raw.append((source if source_raw is None else source_raw).rstrip("\n"))
        self.shell.user_ns.update(names, **{f"_i{line_num}": raw[-1]})


class RankShell(InteractiveShell):
    """InteractiveShell, with nothing that a terminal or a history needs."""

    # No traits, which take long to set: nobody watches these here, and each cell sets them.
    execution_count = 0
    last_execution_succeeded = True
    last_execution_result: ExecutionResult | None = None
    compiler_class = Type(CellCompiler)
    compile: CellCompiler
    display_pub_class = Type(RankDisplayPublisher)
    displayhook_class = Type(RankDisplayHook)

    def configure(self, publish: Publish) -> None:
        """Say where displays go. Must be called before the first cell."""
        self._publish_display = publish
        self.hush: Callable[[BaseException], bool] = lambda error: False
        self.plain: Callable[[BaseException], bool] = lambda error: False
        self.shown: list[str] = []
        self.has_raised = False
        self._raised: BaseException | None = None
        self.reporter: Reporter
        self.before_preemption: dict[str, Callable[[], object]] = {}
        self._nested = False
        self.loop_runner = self._run_coroutine
        # Blank lines at the top of a cell count in the notebook's gutter, so they stay.
        cleanup = self.input_transformer_manager.cleanup_transforms
        cleanup[:] = [transform for transform in cleanup if transform is not leading_empty_lines]
        self._own_transforms = [list(transforms) for transforms in self._transforms()]
        self._python: tuple[str, bool] = ("", False)
        self._lines_before = 0
        self._captures = False

    @property
    def call_pdb(self) -> bool:
        """Whether a failure begins a debugger, as `%pdb on` would have it: never. Setting it raises NoKeyboardError."""
        return False

    @call_pdb.setter
    def call_pdb(self, value: bool) -> None:
        if value:
            no_debugger()

    def init_history(self) -> None:
        """See InteractiveShell."""
        self.history_manager = RankHistory(shell=self, parent=self)
        self.configurables.append(self.history_manager)  # type: ignore[arg-type]

    def _transforms(self) -> list[list[Any]]:
        """All that is done to the text of a cell; code of a cell may add to these lists."""
        manager = self.input_transformer_manager
        lists = manager.cleanup_transforms, manager.line_transforms, manager.token_transformers
        return [*lists, self.input_transformers_post]

    def transform_cell(self, raw_cell: str) -> str:
        """See InteractiveShell. What is Python as it stands is left so, unless a cell has added transformations.

        To find that out token by token, as IPython does, takes longer than all else that an empty cell costs. A single
        line is left to IPython, for it may mean a magic without %.
        """
        # Lines are counted as in the notebook's gutter; IPython's cell magics know but the first line of a text.
        first = re.search(r"^.*\S", raw_cell, re.MULTILINE)
        above = raw_cell.count("\n", 0, first.start()) if first else 0
        lines, self._lines_before = self._lines_before + above, 0
        magic = re.match(r"\s*%%(\w*)", first[0]) if first else None
        if magic and first:
            raw_cell = raw_cell[first.start() :]
            if magic[1] in RUN_PYTHON:
                self._lines_before, self._captures = lines + 1, magic[1] == "capture"
                self.compile.text = "\n" * lines + raw_cell
            return "\n" * lines + str(super().transform_cell(raw_cell))  # type: ignore[no-untyped-call]
        # `leading_indent` looks at the first line only, which is about to be an empty one.
        raw_cell = "\n" * (lines - above) + raw_cell
        if "\n" in raw_cell.rstrip("\n") and self._transforms() == self._own_transforms:
            with contextlib.suppress(SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
                code = compile(raw_cell, "<>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
                self._python = f"{raw_cell}\n", bool(code.co_flags & inspect.CO_COROUTINE)
                return self._python[0]
        cell: str = super().transform_cell(raw_cell)  # type: ignore[no-untyped-call]
        return cell

    def run_cell(self, raw_cell: str, *arguments: Any, **options: Any) -> ExecutionResult:
        """See InteractiveShell. What fails in the body of a `%%capture` has failed its cell; IPython only shows it."""
        __tracebackhide__ = True
        captured = self.compile.is_body = self._captures
        self._captures = False
        result: ExecutionResult = super().run_cell(raw_cell, *arguments, **options)  # type: ignore[no-untyped-call]
        if captured and not result.success:
            self.shown = []  # it is shown as the failure of the cell
            result.raise_error()
        return result

    def enable_gui(self, gui: str | None = None) -> None:
        """See InteractiveShell: `%matplotlib inline` wants no loop of events. Raises UsageError for a window's."""
        if gui not in (None, "inline"):
            raise UsageError(f"a rank has no screen for {gui}: `%matplotlib inline` shows figures below the cell")

    def should_run_async(self, raw_cell: str, *, transformed_cell: str | None = None, **options: Any) -> bool:
        """See InteractiveShell: whether a cell has a top-level await."""
        cell, awaits = self._python
        if transformed_cell is cell:
            return awaits and self.autoawait
        asynchronous: bool = super().should_run_async(raw_cell, transformed_cell=transformed_cell, **options)
        return asynchronous

    def _tee(self, channel: str) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Keep nothing of what is printed: IPython 9 has it all in memory, for a history that a rank has not."""
        return contextlib.nullcontext()

    def system(self, cmd: str) -> None:
        """Run a `!` command. Its output needs no detour: a child that writes to our descriptors is heard as it writes.

        IPython takes an interrupt for the command's alone and goes on with the cell; here it was meant for the cell.
        """
        self.system_raw(cmd)  # type: ignore[no-untyped-call]
        if self.hush(KeyboardInterrupt()):
            raise KeyboardInterrupt

    def safe_execfile(self, fname: Any, *where: Any, exit_ignore: bool = False, **options: Any) -> None:
        """See InteractiveShell. A script of `%run` that fails is a failure of the cell.

        IPython only shows it and goes on: the rank would be done, and the others would wait for it without end.
        """
        __tracebackhide__ = True
        options["raise_exceptions"] = True
        try:
            super().safe_execfile(fname, *where, exit_ignore=exit_ignore, **options)  # type: ignore[no-untyped-call]
        except SystemExit:
            if not exit_ignore:
                raise

    def safe_run_module(self, mod_name: str, where: dict[str, Any]) -> None:
        """The same for `%run -m`."""
        __tracebackhide__ = True
        try:
            where.update(runpy.run_module(mod_name, run_name="__main__", alter_sys=True))
        except SystemExit as ending:
            if ending.code:
                raise

    def show(self, kind: Any, data: dict[str, Any], metadata: dict[str, Any], display_id: str | None) -> None:
        """Hand one rich output on."""
        sys.stdout.flush()
        sys.stderr.flush()
        identity = None if display_id is None else str(display_id)
        self._publish_display(Display(-1, "", kind, as_message(data), as_message(metadata), identity))

    def run(self, source: str, cell: int, first_line: int) -> ExecutionResult:
        """Run a cell whose first line is line `first_line` of the notebook's gutter, as In[cell]."""
        self.shown, self.has_raised, self._raised = [], False, None
        self.execution_count = max(cell, 1)
        self._lines_before, self._captures, self.compile.text = first_line - 1, False, ""
        renew()
        result = self.run_cell(source, store_history=True)
        if result.success:
            self.tell_shown()
        return result

    def tell_shown(self) -> None:
        """Write out the traceback of an error after which a cell goes on, as of a value's `__repr__`."""
        if self.shown:
            print("\n".join(self.shown), file=sys.stderr)
        self.shown = []

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        self.shown = list(stb)

    def showtraceback(self, *arguments: Any, **options: Any) -> None:
        """Note how IPython would show the failure; it is shown where the notebook is.

        Formatting takes a while and means nothing to one who interrupted, to one who called `sys.exit`, or where `hush`
        says so; and it runs the exception's own code, which can raise. IPython's takes up to half a second of a core in
        large files such as torch's, and seconds where a function calls itself without end. So where one is deep,
        or `plain` says so, as many ranks may fail at once, it is Python's own.
        """
        self.has_raised = True
        self.tell_shown()
        self._raised = error = sys.exc_info()[1]
        if error is None or isinstance(error, SystemExit | KeyboardInterrupt) or self.hush(error):
            return
        with contextlib.suppress(Exception):
            if self.plain(error) or is_deep(error):
                self.shown = plain_traceback(error)
            else:
                super().showtraceback(*arguments, **options)

    def _format_exception_for_storage(self, exception: BaseException, *rest: Any, **options: Any) -> dict[str, Any]:
        """Keep what was shown: IPython 9 formats each failure once more, for a history that a rank has not.

        It also does so for one that was interrupted, and the first such formatting takes half a second of a core.
        """
        return {"ename": type(exception).__name__, "evalue": "", "traceback": list(self.shown)}

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run the top-level await of a cell. Libraries that call asyncio.run meanwhile find a loop that nests."""
        import nest_asyncio2

        loop = self._cell_loop()
        if not self._nested:
            nest_asyncio2.apply(loop)
            self._nested = True
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except KeyboardInterrupt as interrupt:
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            if self._raised is None:
                raise
            raise interrupt.with_traceback(self._raised.__traceback__) from None  # which knows where in the cell it was

    def _cell_loop(self) -> asyncio.AbstractEventLoop:
        try:
            loop = asyncio.get_event_loop_policy().get_event_loop()
            if not loop.is_closed():
                return loop
        except RuntimeError:
            pass
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        return loop


def make_shell(publish: Publish, namespace: dict[str, Any]) -> RankShell:
    """The shell of this process, with these names for cells to find.

    Cells run as `__main__`, so that a script's `if __name__ == "__main__"` holds.
    """
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "neutral"  # as in kernels: readable on light and dark
    config.InteractiveShell.autoindent = False
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    shell = RankShell.instance(config=config, user_ns={})
    shell.configure(publish)
    shell.user_ns.update(namespace)
    shell.user_ns.update(exit=sys.exit, quit=sys.exit)  # IPython's own would end a shell, and take no code
    shell.user_ns_hidden.update(namespace)
    warnings.filterwarnings("ignore", message="To exit: use 'exit'")  # IPython's advice at each sys.exit of a script
    sys.argv = ["cell"]  # what argparse calls a script
    if "" not in sys.path:
        sys.path.insert(0, "")
    return shell


def rehearse() -> None:
    """Do once, before any fork, what is slow the first time in each process: a cell, its value, and a traceback.

    Leaves no shell behind. Starts no thread.
    """
    main = sys.modules["__main__"]
    shell = make_shell(lambda shown: None, {})
    shell.run("def fails():\n    1 / 0\n1", 1, 1)
    shell.run("fails()", 1, 1)
    atexit.unregister(shell.atexit_operations)
    RankShell.clear_instance()
    sys.modules["__main__"] = main
