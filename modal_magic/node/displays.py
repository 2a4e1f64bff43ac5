"""What a cell displays and what its last expression is worth, on the way to the agent."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import msgspec
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import ExecutionResult

if TYPE_CHECKING:
    from modal_magic.node.shell import RankShell

__all__ = ["RankDisplayHook", "RankDisplayPublisher", "as_message"]


def _as_builtin(value: object) -> object:
    """A value as a `_repr_…_` may have it, where that is not plain: numbers of numpy, a subclass of str.

    A kernel of Jupyter takes these too.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if callable(as_list := getattr(value, "tolist", None)):
        return as_list()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"a display holds {value!r}, which is no value of JSON")


def as_message(bundle: dict[str, Any]) -> dict[str, Any]:
    """What a message can carry of representations, or of what is said of them, by their MIME types.

    Bytes become base64. Raises TypeError for what is no value of JSON at all.
    """
    plain: dict[str, Any] = msgspec.to_builtins(bundle, enc_hook=_as_builtin)
    return plain


class RankDisplayPublisher(DisplayPublisher):
    """Sends rich output to the agent in place of a front end."""

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        source: str | None = None,
        *,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **_: Any,
    ) -> None:
        """Publish a bundle of representations, keyed by MIME type."""
        display_id = (transient or {}).get("display_id")
        self.shell.show("update" if update else "display", data, metadata or {}, display_id)

    def clear_output(self, wait: bool = False) -> None:
        """Clear what this cell has displayed."""
        self.shell.show("clear", {}, {}, None)


class RankDisplayHook(DisplayHook):
    """Sends the value of a cell's last expression to the agent."""

    shell: RankShell
    exec_result: ExecutionResult | None = None  # no trait: see RankShell

    def write_output_prompt(self) -> None:
        """The notebook labels the value with its rank instead."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        """Send the representations of the value."""
        self.shell.show("result", format_dict, md_dict or {}, None)

    def finish_displayhook(self) -> None:
        """Nothing was written here that would have to be ended."""
