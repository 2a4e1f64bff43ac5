"""Sets of ranks as people write them: `0,2-3` ⇄ (0, 2, 3)."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["format_ranks", "name_ranks", "parse_ranks"]


def parse_ranks(text: str, world_size: int | None = None) -> tuple[int, ...]:
    """Ranks named by `text`, ascending and each once.

    `text` is a comma-separated list of numbers and of ranges `first-last` with both ends included; `all` names every
    rank and needs `world_size`.

    Raises ValueError with a sentence for the user when the text makes no sense or names a rank outside
    `0 … world_size - 1`.
    """
    if text.strip() == "all" and world_size is not None:
        return tuple(range(world_size))
    ranks: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r} names no ranks: write numbers and ranges, as in 0,2-3")
        low, high = int(first), int(last or first)
        if high < low:
            raise ValueError(f"{part.strip()!r} counts down: write {high}-{low}")
        if world_size is not None and high >= world_size:
            raise ValueError(f"there is no rank {high}: the session has {name_ranks(range(world_size))}")
        if high - len(ranks) > 1_000_000:
            raise ValueError(f"{part.strip()!r} is more ranks than a session can have")
        ranks.update(range(low, high + 1))
    return tuple(sorted(ranks))


def format_ranks(ranks: Iterable[int]) -> str:
    """The shortest text that `parse_ranks` reads back as the same set: (0, 1, 2, 5) → `0-2,5`."""
    spans: list[list[int]] = []
    for rank in sorted(set(ranks)):
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in spans)


def name_ranks(ranks: Iterable[int]) -> str:
    """`rank 2` or `ranks 0-2,5`: how a sentence or a label names them."""
    numbers = set(ranks)
    return f"{'rank' if len(numbers) == 1 else 'ranks'} {format_ranks(numbers)}"
