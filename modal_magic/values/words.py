"""Words, names and sets of ranks: what their text stands for, and how they are written."""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from modal_magic.ranges import format_ranks, parse_ranks
from modal_magic.values.refused import Refused

__all__ = [
    "SESSION_NAME", "Show", "choice", "environment", "name", "path", "ranks", "several", "show", "switch", "text",
    "variable", "write_ranks", "write_switch",
]  # fmt: skip

Show = tuple[int, ...] | Literal["all"] | None
"""Whose output a cell shows: these ranks, every rank, or (None) what the view thinks best."""
SESSION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a session may be called: it becomes the name of a folder."""


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


def name(value: object) -> str:
    """A name of a session, which can also be a file's."""
    if not isinstance(value, str) or not SESSION_NAME.fullmatch(value):
        raise Refused("a name has 1 to 64 letters, digits or . _ - and starts with a letter or a digit", "train-1")
    return value


def variable(value: object) -> str:
    """A name that Python takes for a variable."""
    if not isinstance(value, str) or not value.isidentifier() or keyword.iskeyword(value):
        raise Refused("write a name that Python takes for a variable", "training")
    return value


def path(value: object) -> str:
    """The path of a file."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise Refused("write the path of a file", "run.log")
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


def write_switch(given: Any) -> str:
    """What `switch` reads back."""
    return str(given).lower()


def write_ranks(ranks: Any) -> str:
    """What `ranks` and `show` read back."""
    return ranks if isinstance(ranks, str) else format_ranks(ranks)
