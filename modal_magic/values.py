"""What the text of an option stands for, and how a value is written as text.

Each parser takes text or a natural value and raises ValueError (`Refused` with a better one) with a sentence that says
what is allowed. Where the value stood parsers do not know; `modal_magic.reading` adds that.
"""

from __future__ import annotations

import difflib
import keyword
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal

from modal_magic.ranges import format_ranks, parse_ranks

__all__ = [
    "GPU_TYPES", "Idle", "Refused", "Show", "capacity", "choice", "duration", "environment", "gpu", "gpu_count", "idle",
    "limit", "name", "number", "ranks", "same_gpu", "several", "show", "size", "switch", "text", "variable", "whole",
    "write_duration", "write_ranks", "write_size", "write_switch",
]  # fmt: skip

Show = tuple[int, ...] | Literal["all"] | None
"""Whose output a cell shows: these ranks, every rank, or (None) what the view thinks best."""

Idle = float | Literal["auto"] | None
"""How many seconds a session may be without a run: `auto` leaves it to the backend, None is for any time."""

GPU_TYPES = (
    "T4", "L4", "A10", "A10G", "A100", "A100-40GB", "A100-80GB", "L40S", "H100", "H100!", "H200", "B200", "B200+",
    "B300", "RTX-PRO-6000", "any",
)  # fmt: skip
SESSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a session may be called: it becomes the name of a folder."""
SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
DURATION_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
LONGEST = 30 * 86400.0


class Refused(ValueError):
    """A value makes no sense. The text says what is allowed; `instead` is a value that would do, None if none is near.

    `modal_magic.reading.read_value` makes a `UsageError` of it.
    """

    def __init__(self, reason: str, instead: object = None) -> None:
        super().__init__(reason)
        self.instead = instead


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


def choice(*choices: str) -> Callable[[object], str]:
    """A parser of one of these words, in any case."""

    def parse(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in choices:
            near = difflib.get_close_matches(word, choices, n=1)
            raise Refused(f"choose {' or '.join(choices)}", near[0] if near else choices[0])
        return word

    return parse


def switch(value: object) -> bool:
    """Yes or no, in any of the words that config files use for them."""
    word = str(value).strip().lower()
    if word not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise Refused("it is either true or false", True)
    return word in ("1", "true", "yes", "on")


def gpu(value: object) -> str:
    """`TYPE` or `TYPE:COUNT`, the type written as Modal writes it; several, with commas, are alternatives."""
    if isinstance(value, str) and "," in value:
        kinds = [_one_gpu(kind) for kind in value.split(",")]
        if len({gpu_count(kind) for kind in kinds}) > 1:
            raise Refused("alternatives have the same number of GPUs", kinds[0])
        return ",".join(dict.fromkeys(kinds))
    return _one_gpu(value)


def _one_gpu(value: object) -> str:
    found = re.fullmatch(r"([A-Za-z0-9_+!-]+)(?::(\d{1,9}))?", value.strip()) if isinstance(value, str) else None
    if found is None:
        raise Refused("write TYPE or TYPE:COUNT", "H100:8")
    kinds = {kind.lower(): kind for kind in GPU_TYPES}
    kind, colon = found[1].lower(), f":{found[2]}" if found[2] else ""
    if kind not in kinds:
        near = difflib.get_close_matches(kind, kinds, n=1)
        reason = f"there is no GPU type {found[1]}; known are {', '.join(GPU_TYPES)}"
        raise Refused(reason, kinds[near[0]] + colon if near else None)
    if found[2] and not 1 <= int(found[2]) <= 8:
        raise Refused("a node has 1 to 8 GPUs", f"{kinds[kind]}:{min(max(int(found[2]), 1), 8)}")
    return f"{kinds[kind]}:{int(found[2])}" if found[2] else kinds[kind]


def name(value: object) -> str:
    """A name of a session, which can also be a file's."""
    if not isinstance(value, str) or not SESSION_NAME.fullmatch(value):
        raise Refused("a name has 1 to 64 letters, digits or . _ - and starts with a letter or a digit", "train-1")
    return value


def ranks(value: object) -> tuple[int, ...]:
    """A set of ranks, ascending: text such as `0,2-3`, one number, or numbers."""
    if isinstance(value, str):
        return parse_ranks(value)
    numbers = [value] if isinstance(value, int) else list(value) if isinstance(value, Iterable) else []
    if not numbers or not all(isinstance(rank, int) and not isinstance(rank, bool) and rank >= 0 for rank in numbers):
        raise Refused("name ranks by number, counted from 0", "0,2-3")
    return tuple(sorted(set(numbers)))


def show(value: object) -> Show:
    """`all`, or a set of ranks."""
    return "all" if isinstance(value, str) and value.strip() == "all" else ranks(value)


def environment(value: object) -> tuple[tuple[str, str], ...]:
    """Variables with their values, by name: a mapping, pairs, or texts `NAME=VALUE`. The last of a name counts."""
    given = list(value.items()) if isinstance(value, Mapping) else [value] if isinstance(value, str) else value
    pairs: dict[str, str] = {}
    for item in given if isinstance(given, Iterable) else [given]:
        pair = item.partition("=")[::2] if isinstance(item, str) and "=" in item else item
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise Refused("write NAME=VALUE", "NCCL_DEBUG=INFO")
        key, content = pair
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise Refused(f"{key!r} is no name: letters, digits and _, no digit first", "NCCL_DEBUG=INFO")
        if isinstance(content, bool) or not isinstance(content, str | int | float):
            raise Refused(f"the value of {key} must be a text or a number", f"{key}=1")
        if "\0" in str(content):
            raise Refused(f"the value of {key} holds a NUL, which no environment can carry")
        pairs[key] = str(content)
    return tuple(sorted(pairs.items()))


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


def path(value: object) -> str:
    """The path of a file."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise Refused("write the path of a file", "run.log")
    return value


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
            raise Refused("write a time as a number and s, min, h or d", example)
        seconds = float(found[1]) * DURATION_UNITS[found[2]]
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


def number(allowed: str, low: float, high: float) -> Callable[[object], float]:
    """A parser of numbers from `low` to `high`; `allowed` is the sentence that says so."""

    def parse(value: object) -> float:
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,18}(\.\d{1,18})?\s*", value):
            value = float(value)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise Refused(allowed, low)
        return float(value)

    return parse


def variable(value: object) -> str:
    """A name that Python takes for a variable."""
    if not isinstance(value, str) or not value.isidentifier() or keyword.iskeyword(value):
        raise Refused("write a name that Python takes for a variable", "training")
    return value


def text(allowed: str, pattern: str, example: str) -> Callable[[object], str]:
    """A parser of texts of one pattern; `allowed` is the sentence that says what is meant."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value.strip()):
            raise Refused(allowed, example)
        return value.strip()

    return parse


def several(allowed: str, pattern: str, example: str) -> Callable[[object], tuple[str, ...]]:
    """A parser of texts of one pattern: a list, or one text with spaces between them. Each counts once."""
    one = text(allowed, pattern, example)

    def parse(value: object) -> tuple[str, ...]:
        given = value.split() if isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            raise Refused(allowed, example)
        return tuple(dict.fromkeys(one(item) for item in given))

    return parse


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


def write_duration(seconds: Any) -> str:
    """What `duration` and `idle` read back, in the largest unit that divides it."""
    if isinstance(seconds, str):
        return seconds
    unit = next((unit for unit in ("d", "h", "min", "s") if seconds % DURATION_UNITS[unit] == 0), "")
    return f"{int(seconds) // DURATION_UNITS[unit]}{unit}" if unit else f"{seconds!r}s"


def write_switch(given: Any) -> str:
    """What `switch` reads back."""
    return str(given).lower()


def write_ranks(ranks: Any) -> str:
    """What `ranks` and `show` read back."""
    return ranks if isinstance(ranks, str) else format_ranks(ranks)


def gpu_count(gpu: str | None) -> int:
    """How many GPUs a parsed `gpu` is: 0 without one, 1 when it has no count."""
    return 0 if gpu is None else int(gpu.partition(",")[0].partition(":")[2] or 1)


def same_gpu(first: str | None, second: str | None) -> bool:
    """Whether two parsed `gpu`s ask for the same: `A100` and `A100:1` do."""
    kinds = [gpu and [kind.partition(":")[0] for kind in gpu.split(",")] for gpu in (first, second)]
    return kinds[0] == kinds[1] and gpu_count(first) == gpu_count(second)
