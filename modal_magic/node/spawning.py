"""A clear word where a cell starts processes in a way that cannot work: a cell's functions have no module to import."""

from __future__ import annotations

import multiprocessing.context
from types import FunctionType
from typing import Any

__all__ = ["CellFunctionError", "explain"]


class CellFunctionError(RuntimeError):
    """A function that was defined in a cell was given to a spawned process."""


def explain() -> None:
    """Have `mp.spawn` and spawned `Process`es of a cell's function say what is wrong, before the child fails to."""
    original = multiprocessing.context.SpawnProcess._Popen

    def popen(process: Any) -> Any:
        given = [process._target, *process._args, *process._kwargs.values()]
        for value in given:
            if isinstance(value, FunctionType) and value.__module__ == "__main__":
                raise CellFunctionError(
                    f"{value.__qualname__}() was defined in a cell, and a spawned process cannot import a cell. The "
                    "ranks are processes already, one per GPU: call the function with `rank`. Or move it to a module, "
                    "or use multiprocessing.get_context('fork')."
                )
        return original(process)

    multiprocessing.context.SpawnProcess._Popen = staticmethod(popen)  # type: ignore[assignment]
