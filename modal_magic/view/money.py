"""What a session costs, as text."""

from __future__ import annotations

from modal_magic.prices import Cost

__all__ = ["cost_line", "dollars"]


def dollars(amount: float) -> str:
    """`$0.004`, `$0.21`, `$1,234.50`: cents, and more where these say nothing."""
    return f"${amount:,.2f}" if amount >= 0.1 or amount == 0 else f"${amount:.2g}"


def cost_line(cost: Cost) -> str:
    """`costs $8.42 an hour, $1.23 so far (Modal's prices of 2026-06-27)`."""
    bound = "at most " if cost.at_most else ""
    prices = f"Modal's prices of {cost.date}, for what is reserved"
    return f"costs {bound}{dollars(cost.hourly)} an hour, {bound}{dollars(cost.spent)} so far ({prices})"
