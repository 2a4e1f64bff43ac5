"""Numbers as every view shows them: durations, counts, rates, values, and a course of values as a line of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["PLAIN", "count", "duration", "in_ascii", "percent", "rate", "size", "sparkline", "value"]

UNKNOWN = "–"
BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN = str.maketrans("✓✗■▶‖›…–×" + BLOCKS, "+x#>=>.-x" + "_.,-=+*#")
"""What stands for our marks where there is only ASCII: the blocks of a course rise there in the ink that they take."""


def in_ascii(text: str) -> str:
    """A text of ours where nothing but ASCII can be shown; what ranks wrote beyond it is a question mark."""
    return text.translate(PLAIN).encode("ascii", "replace").decode()


def duration(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `2:19`, `1:41:07`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def count(number: float | None) -> str:
    """`4,000`; a part of a step is shown with one digit."""
    if number is None or not math.isfinite(number):
        return UNKNOWN
    return f"{number:,.0f}" if number == int(number) else f"{number:,.1f}"


def rate(per_second: float | None) -> str:
    """Steps a second in two digits, seconds a step where it is less than one in ten seconds."""
    if per_second is None or not math.isfinite(per_second):
        return UNKNOWN
    if per_second == 0:
        return "0"
    if per_second < 0.1:
        return f"{duration(1 / per_second)}/step"
    return f"{per_second:.1f}" if per_second < 9.95 else f"{per_second:,.0f}"


def value(number: float) -> str:
    """Four significant digits, and all digits of what is larger: `0.412`, `118,402`."""
    if math.isfinite(number) and 10_000 <= abs(number) < 1e12:
        return f"{number:,.0f}"
    return f"{number:.4g}"


def size(number: int | None) -> str:
    """Bytes as `31.2 G` or `412 M`, in powers of 1,024."""
    if number is None:
        return UNKNOWN
    mega = number / 1024**2
    return f"{mega:,.0f} M" if mega < 1000 else f"{mega / 1024:,.1f} G"


def percent(number: int | None) -> str:
    """`62 %`."""
    return UNKNOWN if number is None else f"{number} %"


def sparkline(values: Sequence[float], low: float, high: float, width: int = 12) -> str:
    """A course as `width` blocks; `low` and `high` are those of all courses that are compared."""
    numbers = [number for number in values if math.isfinite(number)]
    if not numbers:
        return ""
    picked = [numbers[min(len(numbers) - 1, round(i * (len(numbers) - 1) / max(1, width - 1)))] for i in range(width)]
    span = high - low
    shares = [min(1.0, max(0.0, (number - low) / span)) if span > 0 else 0.0 for number in picked]
    return "".join(BLOCKS[round(share * (len(BLOCKS) - 1))] for share in shares)
