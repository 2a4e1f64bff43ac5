"""What a notebook adds to the failure of a cell: what it knows and the ranks do not."""

from __future__ import annotations

import re
from collections.abc import Container

from modal_magic.errors import RankFailed

__all__ = ["with_hint"]

_MISSING = re.compile(r"name '(\w+)' is not defined")


def with_hint(error: RankFailed, names: Container[str]) -> RankFailed:
    """A failure with one more line where ranks missed what is among the `names` of their notebook."""
    errors = [rank.error for rank in error.run.ranks.values() if rank.error and rank.error.name == "NameError"]
    missed = {found[1] for one in errors if (found := _MISSING.match(one.message)) and found[1] in names}
    if not missed:
        return error
    told = ", ".join(f"`{name}`" for name in sorted(missed))
    them = "it" if len(missed) == 1 else "them"
    hint = f"The notebook has {told}, its ranks do not: define {them} in a %%modal_distributed cell."
    return RankFailed(f"{error} {hint}", error.run, (*error.rendered, hint))
