"""Every option once, as data: the magics' lines, Tab, config files, the environment, the Python API and the docs.

The fields of `Options` are the table. `python -m modal_magic.options` prints it as the docs show it.

    text or value ──Option.parse──▶ value        refused with a sentence, which the caller's spelling turns
    value ──Option.write──▶ text                 into one line: `--replicas 0: …; try --replicas 1`
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from modal_magic.errors import UsageError
from modal_magic.ranges import format_ranks, parse_ranks

__all__ = [
    "LOGS_OPTIONS", "OPTIONS", "POSITIONALS", "RESTART_OPTIONS", "SESSION", "STATUS_OPTIONS", "STOP_OPTIONS", "TABLES",
    "Option", "Options", "Shape", "Show", "argument_specs", "did_you_mean", "differences", "docs_table", "format_line",
    "parse_line", "parse_values", "read_value", "resolve",
]  # fmt: skip

Scope = Literal["shape", "session", "run"]
"""What an option describes: the ranks a session is made of, the session as a whole, or one run of a cell."""

Show = tuple[int, ...] | Literal["all"] | None
"""Whose output a cell shows: these ranks, every rank, or (None) what the view thinks best."""

GPU_TYPES = (
    "T4", "L4", "A10", "A10G", "A100", "A100-40GB", "A100-80GB", "L40S", "H100", "H100!", "H200", "B200", "B200+",
    "B300", "RTX-PRO-6000", "any",
)  # fmt: skip
SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
DURATION_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
LONGEST_LEASE = 30 * 86400.0


class Refused(ValueError):
    """A value makes no sense. The text says what is allowed; `instead` is a value that would do, None if none is near.

    Parsers do not know where the value stood; `read_value` adds that and makes a `UsageError` of it.
    """

    def __init__(self, reason: str, instead: object = None) -> None:
        super().__init__(reason)
        self.instead = instead


# ---- from text or a natural value to the value, and back -------------------------------------------------------------


def _whole(allowed: str, low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,18}\s*", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise Refused(f"{allowed}, written as a whole number", low)
        if not low <= value <= high:
            raise Refused(allowed, min(max(value, low), high))
        return value

    return parse


def _choice(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in choices:
            near = difflib.get_close_matches(word, choices, n=1)
            raise Refused(f"choose {' or '.join(choices)}", near[0] if near else choices[0])
        return word

    return parse


def _switch(value: object) -> bool:
    word = str(value).strip().lower()
    if word not in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        raise Refused("it is either true or false", True)
    return word in ("1", "true", "yes", "on")


def _gpu(value: object) -> str:
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


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value, re.ASCII):
        raise Refused("a name has 1 to 64 letters, digits or . _ - and starts with a letter or a digit", "train-1")
    return value


def _ranks(value: object) -> tuple[int, ...]:
    if isinstance(value, str):
        return parse_ranks(value)
    numbers = [value] if isinstance(value, int) else list(value) if isinstance(value, Iterable) else []
    if not numbers or not all(isinstance(rank, int) and not isinstance(rank, bool) and rank >= 0 for rank in numbers):
        raise Refused("name ranks by number, counted from 0", "0,2-3")
    return tuple(sorted(set(numbers)))


def _show(value: object) -> Show:
    return "all" if isinstance(value, str) and value.strip() == "all" else _ranks(value)


def _environment(value: object) -> tuple[tuple[str, str], ...]:
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


def _size(value: object) -> int:
    allowed = "write a number of bytes, with kB, MB or GB if you like, or off for no limit"
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    found = re.fullmatch(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([A-Za-z]*)\s*", text) if isinstance(text, str) else None
    if found is None or found[2].lower() not in SIZE_UNITS:
        raise Refused(allowed, "10MB")
    size = int(Decimal(found[1]) * SIZE_UNITS[found[2].lower()])
    if size < 1:
        raise Refused("a limit is at least 1 byte; off lifts it", "10MB")
    return size


def _write_size(size: Any) -> str:
    unit = next((unit for unit in ("GB", "MB", "kB") if size % SIZE_UNITS[unit.lower()] == 0), "")
    return f"{size // SIZE_UNITS[unit.lower()]}{unit}"


def _duration(value: object) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = repr(value) if number else value
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([a-z]*)\s*", text) if isinstance(text, str) else None
    if found is None or found[2] not in DURATION_UNITS:
        raise Refused("write a time as a number and s, min, h or d", "30min")
    seconds = float(found[1]) * DURATION_UNITS[found[2]]
    if not (math.isfinite(seconds) and 0 < seconds <= LONGEST_LEASE):
        raise Refused(f"a lease is longer than 0 and at most {_write_duration(LONGEST_LEASE)}", "30min")
    return seconds


def _write_duration(seconds: Any) -> str:
    unit = next((unit for unit in ("d", "h", "min", "s") if seconds % DURATION_UNITS[unit] == 0), "")
    return f"{int(seconds) // DURATION_UNITS[unit]}{unit}" if unit else f"{seconds!r}s"


def _write_ranks(ranks: Any) -> str:
    return ranks if isinstance(ranks, str) else format_ranks(ranks)


# ---- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
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
    def flag(self) -> str:
        """How a magic's line writes it: `--nproc-per-node`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable that sets it: `MODAL_MAGIC_NPROC_PER_NODE`."""
        return "MODAL_MAGIC_" + self.name.upper()


def _option(default: Any, help: str, parse: Callable[[object], object], scope: Scope, **rest: Any) -> Any:
    option = Option(help=help, parse=parse, scope=scope, default=default, **{"nullable": default is None, **rest})
    return dataclasses.field(default=default, metadata={"option": option})


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a cell asks for, every value parsed and within its bounds (`resolve` makes one).

    Raises UsageError when values contradict each other.
    """

    replicas: int = _option(
        1, "nodes of the session; each is one container", _whole("a session has 1 to 1024 nodes", 1, 1024), "shape",
        short="-n", metavar="N", example="4",
    )  # fmt: skip
    gpu: str | None = _option(
        None, "GPUs of each node: a type, or a type and a count; `any` takes what is here", _gpu, "shape",
        absent="none", metavar="TYPE[:COUNT]", example="A100", suggestions=GPU_TYPES,
    )  # fmt: skip
    nproc_per_node: int | None = _option(
        None, "ranks on each node; `auto` is one for each GPU, or one", _whole("a node has 1 to 64 ranks", 1, 64),
        "shape", absent="auto", metavar="N", example="8",
    )  # fmt: skip
    backend: str = _option(
        "auto", "where nodes run; `auto` is Modal when there is a token, else this machine",
        _choice("auto", "local", "modal"), "shape", metavar="BACKEND", example="local",
        choices=("auto", "local", "modal"),
    )  # fmt: skip
    session: str | None = _option(
        None, "name of the session; without one, this notebook's own", _name, "session", metavar="NAME",
        example="train-1",
    )  # fmt: skip
    ranks: tuple[int, ...] | None = _option(
        None, "run the cell on these ranks only", _ranks, "run", write=_write_ranks, absent="all", metavar="RANKS",
        example="0,2-3", suggestions=("all",),
    )  # fmt: skip
    show: Show = _option(  # noqa: RUF009 - ruff cannot see that what is behind the alias is immutable
        None, "show the output of these ranks, or of `all`", _show, "run", write=_write_ranks, absent="auto",
        metavar="RANKS", example="0,2-3", suggestions=("all", "auto"),
    )  # fmt: skip
    framework: str = _option(
        "torch", "what is set up in each rank: torch.distributed, or nothing", _choice("torch", "none"), "shape",
        metavar="FRAMEWORK", example="torch", choices=("torch", "none"),
    )  # fmt: skip
    env: tuple[tuple[str, str], ...] = _option(
        (), "set a variable in the environment of each rank; may be given again", _environment, "shape",
        metavar="NAME=VALUE", example="NCCL_DEBUG=INFO", repeatable=True,
        write=lambda pairs: " ".join(shlex.quote(f"{key}={value}") for key, value in pairs),
    )  # fmt: skip
    output_limit: int | None = _option(
        10_000_000, "output that a run may put in the notebook; what is past it stays in the log; `off` lifts it",
        _size, "run", write=_write_size, nullable=True, absent="off", metavar="SIZE", example="10MB",
        suggestions=("off",),
    )  # fmt: skip
    restart: bool = _option(
        False, "begin with fresh ranks: their variables are lost", _switch, "session", switch=True, example="true",
        write=lambda given: str(given).lower(),
    )  # fmt: skip
    lease: float = _option(
        1800.0, "how long the session lives with no kernel attached and no run in progress", _duration, "session",
        write=_write_duration, metavar="TIME", example="30min",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse more ranks than GPUs where the number of GPUs was spelled out."""
        asked, counted = self.nproc_per_node, self.gpu is not None and ":" in self.gpu
        if asked is not None and counted and asked > self.gpu_count:
            raise UsageError(
                f"--nproc-per-node {asked} with --gpu {self.gpu}: each rank needs a GPU of its own and the node has "
                f"{self.gpu_count}; try --nproc-per-node {self.gpu_count}"
            )

    @property
    def gpu_count(self) -> int:
        """GPUs of each node: 0 without `gpu`, 1 when it has no count."""
        return _gpu_count(self.gpu)

    def shape(self) -> Shape:
        """The shape of the session that these options ask for."""
        return Shape(
            replicas=self.replicas, gpu=self.gpu, nproc_per_node=self.nproc_per_node or self.gpu_count or 1,
            backend=self.backend, framework=self.framework, env=self.env,
        )  # fmt: skip


def _gpu_count(gpu: str | None) -> int:
    return 0 if gpu is None else int(gpu.partition(":")[2] or 1)


OPTIONS: tuple[Option, ...] = tuple(
    dataclasses.replace(field.metadata["option"], name=field.name) for field in dataclasses.fields(Options)
)
"""The options of `%%modal_distributed`, in the order of the docs."""

SESSION = next(option for option in OPTIONS if option.name == "session")
STATUS_OPTIONS = (SESSION,)
RESTART_OPTIONS = (SESSION,)
LOGS_OPTIONS = (
    Option(
        name="rank", help="show the log of these ranks only", parse=_ranks, write=_write_ranks, nullable=True,
        absent="all", metavar="RANKS", example="0,2-3", suggestions=("all",),
    ),
    Option(
        name="last", help="show the last lines only", parse=_whole("a log has 1 to 1000000 lines", 1, 1_000_000),
        nullable=True, metavar="N", example="50",
    ),
    SESSION,
)  # fmt: skip
STOP_OPTIONS = (Option(name="all", help="stop every session", parse=_switch, default=False, switch=True), SESSION)
TABLES: Mapping[str, tuple[Option, ...]] = MappingProxyType(
    {
        "modal_distributed": OPTIONS,
        "modal_status": STATUS_OPTIONS,
        "modal_logs": LOGS_OPTIONS,
        "modal_restart": RESTART_OPTIONS,
        "modal_stop": STOP_OPTIONS,
    }
)
"""The options of each magic, by its name without %."""

POSITIONALS: Mapping[str, str] = MappingProxyType({"modal_stop": "session"})
"""The option that a magic also takes as a bare word: `%modal_stop train-1`."""


# ---- reading ---------------------------------------------------------------------------------------------------------

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


def parse_values(values: Mapping[str, object], source: str) -> dict[str, object]:
    """The options that a mapping gives (a config file, keyword arguments), by name; keys may have - for _.

    Raises UsageError that starts with `source` when a key is unknown or a value makes no sense.
    """
    by_name = {option.name: option for option in OPTIONS}
    read: dict[str, object] = {}
    for key, value in values.items():
        option = by_name.get(key.replace("-", "_"))
        if option is None:
            raise _usage_error(f"{source}: unknown option {key}; {did_you_mean(key.replace('-', '_'), by_name)}")
        read[option.name] = read_value(option, value, _spell_value, source)
    return read


def parse_line(line: str, options: Sequence[Option] = OPTIONS, positional: str | None = None) -> dict[str, object]:
    """The values that a magic's line gives, by name; what the line does not name is not there.

    `positional` names the option that a bare word stands for. Raises UsageError with one line when the line cannot be
    read, names an unknown option or gives a value that makes no sense.
    """
    try:
        words = shlex.split(line)
    except ValueError:
        # The line itself is not shown: IPython may have put the value of a variable into it.
        raise UsageError("a quote on the line is opened and not closed; close it, or put \\ before it") from None
    by_name = {option.name: option for option in options}
    parser = _LineParser(add_help=False, allow_abbrev=False, exit_on_error=False, argument_default=argparse.SUPPRESS)
    for flags, keywords in argument_specs(options):
        # Left to `read_value`, whose messages say what to do.
        parser.add_argument(*flags, **{key: value for key, value in keywords.items() if key != "choices"})
    try:
        namespace, strays = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        option = next(option for option in options if option.flag == error.argument_name)
        wants = "takes no value" if option.switch else "needs a value"
        raise UsageError(f"{option.flag} {wants}; try {_spell_flag(option, option.example)}") from None
    unknown = next((word.partition("=")[0] for word in strays if word.startswith("-")), None)
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
        specs.append(((option.flag, option.short) if option.short else (option.flag,), keywords))
    return specs


def _spell_flag(option: Option, value: object) -> str:
    return option.flag if option.switch else f"{option.flag} {_quote(str(value))}"


def _spell_value(option: Option, value: object) -> str:
    return f"{option.name}={json.dumps(value, default=repr, ensure_ascii=False)}"


def _quote(text: str) -> str:
    if re.fullmatch(r"[\w@%+=:,./!-]+", text):
        return text
    return shlex.quote(text)


# ---- what the values come to -----------------------------------------------------------------------------------------


def resolve(*layers: Mapping[str, object]) -> Options:
    """The options that parsed layers come to: later layers win, and `env` is merged variable by variable.

    Raises UsageError when values of different layers contradict each other.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        earlier = merged.get("env", ())
        merged |= layer
        if "env" in layer:
            merged["env"] = tuple(sorted({**dict(earlier), **dict(merged["env"])}.items()))
    return Options(**merged)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What a session is made of, with nothing left open but `backend` auto; as text, the options that ask for it."""

    replicas: int
    nproc_per_node: int
    gpu: str | None = None
    backend: str = "auto"
    framework: str = "torch"
    env: tuple[tuple[str, str], ...] = ()

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self.replicas * self.nproc_per_node

    @property
    def gpu_count(self) -> int:
        """GPUs of each node: 0 without `gpu`, 1 when it has no count."""
        return _gpu_count(self.gpu)

    def __str__(self) -> str:
        defaults = {"nproc_per_node": 1, **{option.name: option.default for option in OPTIONS}, "replicas": None}
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["env"] = tuple((key, "…") for key, _ in self.env)  # values of variables may be secrets
        if self.nproc_per_node == max(self.gpu_count, 1):
            del values["nproc_per_node"]
        return format_line({name: value for name, value in values.items() if value != defaults[name]})


def differences(given: Mapping[str, object], shape: Shape) -> tuple[str, ...]:
    """The names of the given (parsed) shape options that disagree with the shape of a session.

    What is not given agrees, and so do `backend` auto on either side, `nproc_per_node` auto and variables that the
    shape has too.
    """
    found: list[str] = []
    for field in dataclasses.fields(shape):
        wanted, has = given.get(field.name), getattr(shape, field.name)
        if field.name not in given or wanted == has:
            continue
        if field.name == "gpu":
            agrees = _same_gpu(wanted if isinstance(wanted, str) else None, shape.gpu)
        elif field.name == "env":
            agrees = set(_environment(wanted)) <= set(shape.env)
        else:
            agrees = "auto" in (wanted, has) if field.name == "backend" else wanted is None
        if not agrees:
            found.append(field.name)
    return tuple(found)


def _same_gpu(first: str | None, second: str | None) -> bool:
    kinds = [gpu and gpu.partition(":")[0] for gpu in (first, second)]
    return kinds[0] == kinds[1] and _gpu_count(first) == _gpu_count(second)


def format_line(values: Mapping[str, object], options: Sequence[Option] = OPTIONS) -> str:
    """The line that `parse_line` reads back as `values` (parsed); None is left out where it has no word."""
    words: list[str] = []
    for option in options:
        value = values.get(option.name)
        if option.name not in values or (value is None and not option.absent) or (option.switch and not value):
            continue
        if option.repeatable:
            words += [f"{option.flag} {option.write((item,))}" for item in _environment(value)]
        else:
            words.append(_spell_flag(option, option.absent if value is None else option.write(value)))
    return " ".join(words)


def docs_table() -> str:
    """The Markdown table of all options, which docs/options.md holds."""
    rows = ["| Option | Config key | Environment variable | Default | Meaning |", "| --- | --- | --- | --- | --- |"]
    for option in OPTIONS:
        flag = option.flag if option.switch else f"{option.flag} {option.metavar}"
        default = option.absent if option.default is None else option.write(option.default)
        rows.append(
            f"| `{flag}` | `{option.name}` | `{option.variable}` | {f'`{default}`' if default else 'none'} "
            f"| {option.help[0].upper()}{option.help[1:]} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(docs_table())
