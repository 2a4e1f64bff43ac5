"""What is refused before anything is started or sent: cells, ranks and limits that make no sense."""

from __future__ import annotations

import ast
import contextlib
import itertools
import operator
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from modal_magic.errors import CellSyntaxError, UsageError
from modal_magic.magic_tables import TABLES
from modal_magic.options import OPTIONS, Options, resolve
from modal_magic.protocol import Retries
from modal_magic.ranges import name_ranks, parse_ranks
from modal_magic.reading import parse_values

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = [
    "check_cell", "check_chosen", "check_limits", "check_lives", "check_ranks", "check_source", "chosen_ranks",
    "numbers_of",
]  # fmt: skip

CELL_BYTES = 10_000_000
"""The largest cell that is sent."""
USUAL, USUAL_RETRIES = Options(), Retries(0)
LIVES = tuple(option for option in OPTIONS if option.name in ("lease", "idle", "max_lifetime"))


def check_cell(shell: InteractiveShell, cell: str, number: int) -> None:
    """Raise UsageError for the cell In[number] of a notebook that cannot be run.

    Where it is not Python that is a CellSyntaxError (the magic line is line 1).
    """
    if not cell.strip():
        raise UsageError("the cell is empty: write the code for the ranks below the magic line")
    _check_size(cell)
    name = f"Cell In[{number}]"
    with contextlib.suppress(SyntaxError):  # most cells are Python as they stand
        _parse(cell, name)
        return
    above = itertools.takewhile(str.isspace, cell.splitlines(keepends=True))  # IPython drops these
    source = "\n" * len([*above]) + shell.transform_cell(cell)
    try:
        _refuse_magics(_parse(source, name))
    except SyntaxError as error:
        raise CellSyntaxError("".join(traceback.format_exception_only(error)).rstrip()) from None


def _parse(source: str, name: str) -> ast.Module:
    tree: ast.Module = compile("\n" + source, name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return tree


def _refuse_magics(tree: ast.AST) -> None:
    """Raise UsageError for a cell that holds one of our magics: the ranks have none of them."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="run_line_magic" | "run_cell_magic" as kind),
                args=[ast.Constant(str(magic)), *_],
            ) if magic.lstrip("%") in TABLES:
                sign = "%%" if kind == "run_cell_magic" else "%"
                raise UsageError(
                    f"{sign}{magic} at cell line {node.lineno} is for the notebook, and its ranks do not have it: give "
                    "it a cell of its own"
                )


def check_source(source: str) -> None:
    """Raise UsageError for a text that cannot be sent as a cell."""
    if not source.strip():
        raise UsageError("the cell is empty: there is nothing to run")
    _check_size(source)
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the cell holds a character that is no text, at position {error.start}") from None


def _check_size(cell: str) -> None:
    if len(cell) > CELL_BYTES:
        raise UsageError(
            f"the cell has {len(cell) / 1e6:.0f} MB, and at most {CELL_BYTES / 1e6:.0f} MB are sent: put data in a "
            "file and have the ranks read it"
        )


def numbers_of(ranks: Iterable[int] | None) -> list[int] | None:
    """Ranks as plain numbers, ascending and each once. Raises UsageError for what names no ranks."""
    try:
        return None if ranks is None else sorted({operator.index(rank) for rank in ranks})
    except TypeError:
        raise UsageError(f"ranks={ranks!r} names no ranks: write numbers, as in ranks=[0, 2]") from None


def check_ranks(ranks: Sequence[int] | None, world_size: int) -> None:
    """Raise UsageError for ranks that the session does not have."""
    if ranks is not None and (unknown := [rank for rank in ranks if not 0 <= rank < world_size]):
        raise UsageError(f"there is no {name_ranks(unknown)}: the session has {name_ranks(range(world_size))}")


def chosen_ranks(ranks: object, world_size: int) -> list[int] | None:
    """The ranks that an option names, None for all. Raises UsageError for ranks that the session does not have."""
    if not isinstance(ranks, tuple):
        return None
    try:
        return list(parse_ranks(",".join(map(str, ranks)), world_size))
    except ValueError as error:
        raise UsageError(str(error)) from None


def check_chosen(ranks: object, show: object, world_size: int) -> None:
    """Raise UsageError for ranks of `--ranks` or `--show` that a session does not have, or would not."""
    for chosen in (ranks, show):
        chosen_ranks(chosen, world_size)


def check_lives(limits: Mapping[str, object], backend: str) -> dict[str, float | None]:
    """How long a session lives, by the names of these options. Raises UsageError for what makes no sense."""
    read = parse_values(limits, LIVES, "Session.set_limits")
    if read.get("idle") == "auto":
        read["idle"] = resolve(read).idle_on(backend)
    return cast("dict[str, float | None]", read)


def check_limits(timeout: float | None, output_limit: int | None, retries: Retries) -> Options:
    """The limits of a run as its options. Raises UsageError for one out of its bounds."""
    if (timeout, output_limit, retries) == (USUAL.timeout, USUAL.output_limit, USUAL_RETRIES):
        return USUAL
    checked = parse_values(
        {
            "timeout": timeout,
            "output_limit": output_limit,
            "retries": retries.max_retries,
            "retry_initial_delay": retries.initial_delay,
            "retry_backoff_coefficient": retries.backoff_coefficient,
            "retry_max_delay": retries.max_delay,
        },
        OPTIONS,
        "Session.run",
    )
    return resolve(checked)
