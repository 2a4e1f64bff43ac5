"""Numbers, sizes and times: what their text stands for, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal

from modal_magic.values.refused import Refused

__all__ = [
    "Idle", "capacity", "duration", "idle", "limit", "log_size", "number", "size", "whole", "write_duration",
    "write_size",
]  # fmt: skip

Idle = float | Literal["auto"] | None
"""How many seconds a session may be without a run: `auto` leaves it to the backend, None is for any time."""
SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
DURATION_UNITS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
LONGEST = 30 * 86400.0


def whole(allowed: str, low: int, high: int) -> Callable[[object], int]:
    """A parser of whole numbers from `low` to `high`; `allowed` is the sentence that says so."""

    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,18}\s*", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Refused(f"{allowed}, written as a whole number", low)
        if not low <= value <= high:
            raise Refused(allowed, min(max(value, low), high))
        return value

    return parse


def number(allowed: str, low: float, high: float) -> Callable[[object], float]:
    """A parser of numbers from `low` to `high`; `allowed` is the sentence that says so."""

    def parse(value: object) -> float:
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,18}(\.\d{1,18})?\s*", value):
            value = float(value)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise Refused(allowed, low)
        return float(value)

    return parse


def size(value: object) -> int:
    """A number of bytes: `10MB`, `1.5 GiB`, `500`."""
    allowed = "write a number of bytes, with kB, MB or GB if you like, or off for no limit"
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    found = re.fullmatch(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([A-Za-z]*)\s*", text) if isinstance(text, str) else None
    if found is None or found[2].lower() not in SIZE_UNITS:
        raise Refused(allowed, "10MB")
    count = int(Decimal(found[1]) * SIZE_UNITS[found[2].lower()])
    if count < 1:
        raise Refused("a limit is at least 1 byte; off lifts it", "10MB")
    return count


def log_size(value: object) -> int:
    """A number of bytes for a log: at least 1 MB."""
    try:
        count = size(value)
    except Refused:
        raise Refused("write a number of bytes, with kB, MB or GB if you like", "1GB") from None
    if count < 1_000_000:
        raise Refused("a log is at least 1 MB", "1GB")
    return count


def capacity(least: int, example: str) -> Callable[[object], int]:
    """A parser of numbers of bytes that a container has: at least `least`."""

    def parse(value: object) -> int:
        try:
            count = size(value)
        except Refused:
            raise Refused("write a number of bytes, with MiB or GiB if you like", example) from None
        if count < least:
            raise Refused(f"this is at least {write_size(least)}", example)
        return count

    return parse


def write_size(size: Any) -> str:
    """What `size` reads back, in the largest unit that divides it."""
    units = ("GB", "GiB", "MB", "MiB", "kB")
    unit = next((unit for unit in units if size % SIZE_UNITS[unit.lower()] == 0), "")
    return f"{size // SIZE_UNITS[unit.lower()]}{unit}"


def duration(allowed: str, low: float, high: float, example: str) -> Callable[[object], float]:
    """A parser of times in seconds from `low` to `high`: `30min`, `45`; `allowed` is the sentence that says so."""

    def parse(value: object) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        text = repr(value) if is_number else value
        pattern = r"\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([a-z]*)\s*"
        found = re.fullmatch(pattern, text) if isinstance(text, str) else None
        if found is None or found[2] not in DURATION_UNITS:
            raise Refused("write a time as a number and ms, s, min, h or d", example)
        seconds, unit = float(found[1]), DURATION_UNITS[found[2]]
        if unit != 1:
            seconds = float(f"{seconds * unit:.15g}")  # 4.1min are 246 s, not 245.99999999999997
        if not low <= seconds <= high:
            raise Refused(allowed, example)
        return seconds

    return parse


def limit(what: str, example: str) -> Callable[[object], float]:
    """A parser of a time that has no bounds of its own: longer than 0, and at most 30 days."""
    return duration(f"{what} is longer than 0 and at most {write_duration(LONGEST)}", math.ulp(0.0), LONGEST, example)


def idle(value: object) -> float | Literal["auto"]:
    """A time, or `auto`."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    return limit("this time", "30min")(value)


def write_duration(seconds: Any) -> str:
    """What `duration` and `idle` read back, in the largest unit that divides it."""
    if isinstance(seconds, str):
        return seconds
    unit = next((unit for unit in ("d", "h", "min", "s") if seconds % DURATION_UNITS[unit] == 0), "")
    return f"{int(seconds) // DURATION_UNITS[unit]}{unit}" if unit else f"{seconds!r}s"
