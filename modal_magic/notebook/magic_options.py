"""The options of a magic as IPython documents them: from the one table, for `?`, Tab and the request for help."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from IPython.core.magic_arguments import argument, magic_arguments

from modal_magic.magic_tables import TABLES
from modal_magic.notebook.interrupts import interrupted_as
from modal_magic.reading import Option, argument_specs

__all__ = ["options_of"]


def options_of(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Document a magic's options, have `--help` print them, and an interrupt say in one line what it interrupted."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        table: tuple[Option, ...] = TABLES[name]
        for flags, keywords in reversed(argument_specs(table)):
            method = argument(*flags, **keywords)(method)
        documented: Callable[..., Any] = magic_arguments()(method)

        @functools.wraps(documented)
        def helpful(self: object, line: str, *cell: str) -> object:
            if {"-h", "--help"}.isdisjoint(line.split()):
                with interrupted_as(lambda: f"{'%%' if cell else '%'}{name} was interrupted"):
                    return documented(self, line, *cell)
            print(documented.__doc__, flush=True)
            return None

        return helpful

    return decorate
