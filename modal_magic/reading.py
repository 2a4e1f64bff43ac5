"""Options as they are given: read from a magic's line, a config file or keyword arguments, and written as a line.

text or value ──Option.parse──▶ value        refused with a sentence, which the caller's spelling turns
value ──Option.write──▶ text                 into one line: `--replicas 0: …; try --replicas 1`
"""

from __future__ import annotations

import argparse
import difflib
import functools
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from modal_magic.errors import UsageError
from modal_magic.values import Refused

__all__ = [
    "Option", "Scope", "Spelling", "argument_specs", "did_you_mean", "format_line", "parse_line", "parse_values",
    "read_value",
]  # fmt: skip

Scope = Literal["shape", "session", "run"]
"""What an option describes: the ranks a session is made of, the session as a whole, or one run of a cell."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Option:
    """One option, wherever it may be given.

    `parse` takes text or a natural value and raises ValueError (`Refused`) with a sentence. `absent` is the word for
    None where None means something. `choices` is closed, `suggestions` only feeds Tab. A `switch` takes no value.
    """

    name: str = ""
    short: str = ""
    help: str
    parse: Callable[[object], object]
    write: Callable[[Any], str] = str
    scope: Scope = "run"
    default: object = None
    nullable: bool = False
    absent: str = ""
    metavar: str = ""
    example: str = ""
    choices: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()
    repeatable: bool = False
    switch: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """All that a magic's line takes for it: `--replicas` and `-n`."""
        return (self.flag, self.short) if self.short else (self.flag,)

    @property
    def flag(self) -> str:
        """How a magic's line writes it: `--nproc-per-node`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable that sets it: `MODAL_MAGIC_NPROC_PER_NODE`."""
        return "MODAL_MAGIC_" + self.name.upper()


Spelling = Callable[[Option, object], str]
"""How a source writes an option with a value, for messages: `--gpu A100`, `gpu="A100"`, `MODAL_MAGIC_GPU=A100`."""


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message about an unknown word: the nearest known one, or all of them when none is near.

    What all of the words have in front is no likeness: dashes do not count, nor does `prefix`.
    """
    names = {name.removeprefix(prefix).strip("-").lower(): name for name in known}
    near = difflib.get_close_matches(word.removeprefix(prefix).strip("-").lower(), names, n=1)
    return f"did you mean {names[near[0]]}?" if near else f"known are {', '.join(names.values())}"


def read_value(option: Option, value: object, spell: Spelling, source: str = "") -> object:
    """The value of `option` that `value` stands for, text or natural.

    Raises UsageError with one line in the spelling of its source.
    """
    word = value.strip().lower() if isinstance(value, str) else None
    if option.nullable and (value is None or (option.absent and word == option.absent)):
        return None
    try:
        return option.parse(value)
    except ValueError as error:
        # What is given to `env` may hold a secret, and a message may be saved with a notebook.
        given = spell(option, value) if not option.repeatable else spell(option, "").rstrip("= '\"")
        instead = error.instead if isinstance(error, Refused) else None
        advice = "" if instead is None else f"; try {spell(option, instead)}"
        given = given if len(given) <= 100 else f"{given[:99]}…"
        raise _usage_error(f"{source}{': ' if source else ''}{given}: {error}{advice}") from None


def parse_values(values: Mapping[str, object], options: Sequence[Option], source: str) -> dict[str, object]:
    """The options that a mapping gives (a config file, keyword arguments), by name; keys may have - for _.

    Raises UsageError that starts with `source` when a key is unknown or a value makes no sense.
    """
    by_name = {option.name: option for option in options}
    read: dict[str, object] = {}
    for key, value in values.items():
        option = by_name.get(key.replace("-", "_"))
        if option is None:
            raise _usage_error(f"{source}: unknown option {key}; {did_you_mean(key.replace('-', '_'), by_name)}")
        read[option.name] = read_value(option, value, _spell_value, source)
    return read


def parse_line(line: str, options: Sequence[Option], positional: str | None = None) -> dict[str, object]:
    """The values that a magic's line gives, by name; what the line does not name is not there.

    `positional` names the option that a bare word stands for. Raises UsageError with one line when the line cannot be
    read, names an unknown option or gives a value that makes no sense.
    """
    return dict(_parse_line(line, tuple(options), positional))


@functools.lru_cache(maxsize=16)
def _parse_line(line: str, options: tuple[Option, ...], positional: str | None) -> dict[str, object]:
    # Kept, for a notebook says the same line again and again, and reading it takes longer than an empty cell on a rank.
    lexer = shlex.shlex(line, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""  # a comment begins where a word does, not within one
    try:
        words = list(itertools.takewhile(lambda word: not word.startswith("#"), lexer))
    except ValueError:
        # The line itself is not shown: IPython may have put the value of a variable into it.
        raise UsageError("a quote on the line is opened and not closed; close it, or put \\ before it") from None
    by_name = {option.name: option for option in options}
    try:
        namespace, strays = _parser(options).parse_known_args(words)
    except argparse.ArgumentError as error:
        option = next(option for option in options if "/".join(option.flags) == error.argument_name)
        wants = "takes no value" if option.switch else "needs a value"
        raise UsageError(f"{option.flag} {wants}; try {_spell_flag(option, option.example)}") from None
    glued = [word for word in words if re.match("-[A-Za-z]{2}", word)]  # argparse takes -nproc for -n with value proc
    unknown = next((word.partition("=")[0] for word in (*glued, *strays) if word.startswith("-")), None)
    if unknown is not None:
        raise _usage_error(f"unknown option {unknown}; {did_you_mean(unknown, [option.flag for option in options])}")
    given: dict[str, object] = vars(namespace)
    if positional is not None and strays and positional not in given:
        given[positional] = strays.pop(0)
    if strays:
        example = next(option for option in options if not option.switch)
        advice = f"options start with --, as in {_spell_flag(example, example.example)}"
        raise _usage_error(f"unexpected word {_quote(strays[0])}; {advice}")
    return {name: read_value(by_name[name], value, _spell_flag) for name, value in given.items()}


@functools.cache
def _parser(options: tuple[Option, ...]) -> _LineParser:
    # Kept, for making one takes longer than an empty cell on four ranks.
    parser = _LineParser(add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS)
    for flags, keywords in argument_specs(options):
        # Choices are left to `read_value`, whose messages say what to do.
        parser.add_argument(*flags, **{key: value for key, value in keywords.items() if key != "choices"})
    return parser


def _usage_error(message: str) -> UsageError:
    # What was given may hold line ends and the like; a message is one line that shows them.
    return UsageError("".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in message))


class _LineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def argument_specs(options: Sequence[Option]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """The flags and keywords of `argparse`'s `add_argument`, which IPython's `magic_arguments.argument` takes too."""
    specs: list[tuple[tuple[str, ...], dict[str, Any]]] = []
    for option in options:
        keywords: dict[str, Any] = {"dest": option.name, "help": option.help.replace("%", "%%")}
        if option.switch:
            keywords["action"] = "store_true"
        else:
            keywords |= {"action": "append" if option.repeatable else "store", "metavar": option.metavar}
        if option.choices:
            keywords["choices"] = option.choices
        specs.append((option.flags, keywords))
    return specs


def _spell_flag(option: Option, value: object) -> str:
    return option.flag if option.switch else f"{option.flag} {_quote(str(value))}"


def _spell_value(option: Option, value: object) -> str:
    return f"{option.name}={json.dumps(value, default=repr, ensure_ascii=False)}"


def _quote(text: str) -> str:
    if re.fullmatch(r"[\w@%+=:,./!-]+", text):
        return text
    return shlex.quote(text)


def format_line(values: Mapping[str, Any], options: Sequence[Option]) -> str:
    """The line that `parse_line` reads back as `values` (parsed); None is left out where it has no word."""
    words: list[str] = []
    for option in options:
        value = values.get(option.name)
        if option.name not in values or (value is None and not option.absent) or (option.switch and not value):
            continue
        if option.repeatable and value is not None:
            words += [f"{option.flag} {option.write((item,))}" for item in value]
        else:
            words.append(_spell_flag(option, option.absent if value is None else option.write(value)))
    return " ".join(words)
