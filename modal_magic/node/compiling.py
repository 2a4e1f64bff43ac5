"""The names and texts by which warnings, log records and tracebacks know the cells of a rank."""

from __future__ import annotations

import linecache
from typing import Any

from IPython.core.compilerop import CachingCompiler

from modal_magic.node.failure import CELL

__all__ = ["CellCompiler"]

TIMED = ("<timed eval>", "<timed exec>")
"""What `%%time` calls its body."""


class CellCompiler(CachingCompiler):
    """Names cells as the notebook does, so that a warning or a log record says where it came from: `Cell In[3]:2`."""

    newest = ""
    text = ""
    """What tracebacks show of a cell whose body is run by a magic, where it is not empty."""
    is_body = False
    """Whether what is compiled next is the body of the newest cell, which is a `%%capture`."""

    def __call__(self, source: Any, filename: str, symbol: str, **options: Any) -> Any:
        """See codeop.Compile. What `%%time` and the like compile has the name of the cell that it stands in."""
        return super().__call__(source, self.newest if filename in TIMED else filename, symbol, **options)

    def cache(self, transformed_code: str, number: int = 0, raw_code: str | None = None) -> str:
        """See CachingCompiler: name a cell, and keep its text for tracebacks."""
        shown, self.text = self.text, ""
        if self.is_body:
            number, shown = self._filename_map[self.newest], "".join(linecache.getlines(self.newest))
        name: str = super().cache(transformed_code, number, raw_code)
        if shown:
            linecache.cache[name] = len(shown), None, shown.splitlines(keepends=True), name
        return name

    def get_code_name(self, raw_code: str, transformed_code: str, number: int) -> str:
        """A name that no other cell has: numbers begin again with another kernel."""
        if self.is_body:
            self.is_body = False
            return self.newest
        name, again = f"{CELL}{number}]", 1
        while name in self._filename_map and "".join(linecache.getlines(name)).rstrip() != transformed_code.rstrip():
            again += 1
            name = f"{CELL}{number}] ({again})"
        self.newest = name
        return name
