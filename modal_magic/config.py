"""The layers of options outside a magic's line: the nearest config file, and `MODAL_MAGIC_…` in the environment.

Of these layers, each wins over what is to the left of it:

    defaults  ◀  modal_magic.toml or pyproject.toml  ◀  environment  ◀  the line
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from modal_magic.errors import UsageError
from modal_magic.options import OPTIONS
from modal_magic.reading import Option, did_you_mean, parse_values, read_value

__all__ = ["INTERNAL_VARIABLES", "from_environment", "from_file", "outer_layers"]

PREFIX = "MODAL_MAGIC_"

INTERNAL_VARIABLES = frozenset(
    {"MODAL_MAGIC_RUNTIME_DIR", "MODAL_MAGIC_PRICES", "MODAL_MAGIC_CHECKPOINT_DIR", "MODAL_MAGIC_VOLUMES"}
)
"""Variables with our prefix that are no options; the last two are those of a rank, whose cell may start a session."""


def outer_layers() -> tuple[dict[str, object], dict[str, object]]:
    """What the config file and the environment of this process give; the line comes on top. Raises what these raise."""
    return from_file(os.getcwd()), from_environment(os.environ)


def from_file(cwd: str | Path) -> dict[str, object]:
    """The options of the nearest config file at or above `cwd`, by name; nothing when no file has any.

    In each folder `modal_magic.toml` comes before the table `[tool.modal_magic]` of `pyproject.toml`. The first file
    with settings is the only one that counts, so that a project never depends on what lies above it.

    Raises UsageError that names the file when it cannot be read or sets an unknown option or a bad value.
    """
    for path in _places(os.path.abspath(cwd)):
        if settings := _settings(path):
            return parse_values(settings, OPTIONS, path)
    return {}


@functools.lru_cache(maxsize=4)
def _places(folder: str) -> list[str]:
    # As text, and kept: every cell asks for all of them, and making paths costs more than looking at the files.
    names = ("modal_magic.toml", "pyproject.toml")
    return [str(place / name) for place in (Path(folder), *Path(folder).parents) for name in names]


def _settings(path: str) -> dict[str, object]:
    try:
        found = os.stat(path)
    except OSError:  # not there, or not to be read by us
        return {}
    return _parsed(Path(path), found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=16)
def _parsed(path: Path, changed: int, size: int) -> dict[str, object]:
    # Kept until the file changes: parsing a pyproject.toml takes longer than an empty cell on four ranks.
    try:
        content = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; correct the file or move it away") from None
    own = path.name == "modal_magic.toml"
    # A pyproject.toml that never names us is not parsed: its errors are not ours to report.
    if not own and not re.search(r"modal[_-]magic", content):
        return {}
    try:
        parsed = tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
        if not re.search(r"\bline \d+", problem):  # tomllib names no line at the end of a document
            problem += f", line {len(content.splitlines())}"
        raise UsageError(f"{path} is not valid TOML: {problem}; correct that line") from None
    if own:
        return parsed
    tools = parsed.get("tool", {})
    table = (tools.get("modal_magic") or tools.get("modal-magic") or {}) if isinstance(tools, dict) else {}
    if not isinstance(table, dict):
        raise UsageError(f"{path}: tool.modal_magic must be a table; write [tool.modal_magic] and the options below it")
    return table


def from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    """The options that variables `MODAL_MAGIC_…` give, by name. An empty variable counts as not set.

    Raises UsageError that names the variable when it is unknown or its value makes no sense.
    """
    set_variables = [name for name in _ours(environ) if name not in INTERNAL_VARIABLES]
    by_variable = {option.variable: option for option in OPTIONS} if set_variables else {}
    given: dict[str, object] = {}
    for variable in set_variables:
        if not (text := environ[variable]):
            continue
        option = by_variable.get(variable)
        if option is None:
            near = did_you_mean(variable, by_variable, PREFIX)
            raise UsageError(f"unknown environment variable {variable}; {near}")
        given[option.name] = read_value(option, _words(variable, text) if option.repeatable else text, _spell)
    return given


def _ours(environ: Mapping[str, str]) -> list[str]:
    if sys.platform != "win32" and environ is os.environ:  # which decodes each name: too slow for every cell
        prefix = PREFIX.encode()
        return [os.fsdecode(name) for name in os.environb if name.startswith(prefix)]
    return [name for name in environ if name.startswith(PREFIX)]


def _words(variable: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        raise UsageError(f"{variable}: a quote is opened and not closed; write it as '{variable}=A=1 B=2'") from None


def _spell(option: Option, value: object) -> str:
    return f"{option.variable}={value}"
