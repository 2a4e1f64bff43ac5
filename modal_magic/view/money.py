"""What a session costs, as text."""

from __future__ import annotations

from modal_magic.prices import Cost

__all__ = ["cost_line", "dollars"]


def dollars(amount: float) -> str:
    """`$0.21`, `$1,234.50`, and for what is less than a cent, `less than $0.01`."""
    return f"${amount:,.2f}" if amount >= 0.01 or amount <= 0 else "less than $0.01"


def cost_line(cost: Cost) -> str:
    """`costs $8.42 an hour, $1.23 so far (Modal's prices of 2026-06-27, for what is reserved)`."""
    bound = "at most " if cost.at_most else ""
    prices = f"Modal's prices of {cost.date}, for what is reserved"
    return f"costs {bound}{dollars(cost.hourly)} an hour, {bound}{dollars(cost.spent)} so far ({prices})"
