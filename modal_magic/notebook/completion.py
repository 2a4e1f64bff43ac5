"""Tab completion of the magics' options, in `%magic` lines and in the first line of `%%magic` cells.

`complete` is pure. `install` hands it to IPython as a matcher (API v2) of the highest priority: the older hook
`complete_command` sees one token cut at = and !, and cannot keep jedi and file names out of the list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from modal_magic.magic_tables import POSITIONALS, TABLES
from modal_magic.reading import Option

if TYPE_CHECKING:
    from IPython.core.completer import CompletionContext, SimpleMatcherResult
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["complete", "install", "uninstall"]

IDENTIFIER = "modal_magic.options"


def complete(
    line: str, cursor: int | None, tables: Mapping[str, Sequence[Option]], sessions: Sequence[str]
) -> list[str]:
    """What the word before the cursor (None: the end) may become: flags not yet given, or values of the flag before it.

    `line` may be a whole cell; the line with the cursor counts. `tables` has the options of each magic by its name
    without %. The list is empty where the line is not one of these magics. What it holds replaces `fragment`.
    """
    words = _words(line, cursor)
    name = words[0].lstrip("%") if words else ""
    if name not in tables or len(words) < 2:
        return []
    by_flag = {option.flag: option for option in tables[name]}
    previous, word = words[-2], words[-1]
    flag, equals, part = word.partition("=")
    if equals and flag in by_flag:
        return _starting_with(part, _values(by_flag[flag], sessions))
    before = by_flag.get(previous)
    if before is not None and not before.switch and not word.startswith("-"):
        return _starting_with(word, _values(before, sessions))
    given = {text.partition("=")[0] for text in words[1:-1]}
    flags = [flag for flag, option in by_flag.items() if option.repeatable or flag not in given]
    # A bare word cannot begin a flag, but nothing typed yet may become either.
    named = sessions if POSITIONALS.get(name) == "session" else ()
    return [*_starting_with(word, named), *(flag for flag in flags if flag.startswith(word))]


def fragment(line: str, cursor: int | None = None) -> str:
    """The text before the cursor that a completion replaces: the last word, or what follows its = in `--flag=…`."""
    words = _words(line, cursor)
    word = words[-1] if words else ""
    return word.partition("=")[2] if re.match(r"--[\w-]+=", word) else word


def install(
    shell: InteractiveShell,
    sessions: Callable[[], Sequence[str]] = tuple,
    tables: Mapping[str, Sequence[Option]] = TABLES,
) -> None:
    """Complete the options of the magics in `shell`; a second call replaces the first.

    `sessions` is called at each Tab after `--session` and the like; if it fails, there are no names to offer.
    """
    from IPython.core.completer import SimpleCompletion, context_matcher

    @context_matcher(identifier=IDENTIFIER, priority=1000)  # type: ignore[untyped-decorator]
    def matcher(context: CompletionContext) -> SimpleMatcherResult:
        line, cursor = context.line_with_cursor, context.cursor_position
        found = _safely(lambda: complete(line, cursor, tables, _safely(sessions)))
        kind = "param" if found and found[0].startswith("--") else "value"
        result: SimpleMatcherResult = {
            "completions": [SimpleCompletion(text=text, type=kind) for text in found],
            "suppress": bool(found),
            "ordered": True,
        }
        if found:
            result["matched_fragment"] = fragment(line, cursor)
        return result

    uninstall(shell)
    shell.Completer.custom_matchers.append(matcher)


def uninstall(shell: InteractiveShell) -> None:
    """Undo `install`; nothing happens where it was not called."""
    matchers = shell.Completer.custom_matchers
    matchers[:] = [matcher for matcher in matchers if getattr(matcher, "matcher_identifier", "") != IDENTIFIER]


def _words(text: str, cursor: int | None) -> list[str]:
    """The words before the cursor on its line, the magic first and the one being typed (perhaps empty) last."""
    line = text[:cursor].rpartition("\n")[2]
    found = re.fullmatch(r"\s*(?:[\w.,\s]+=\s*)?(%%?\w+)(\s.*)?", line)
    if found is None:
        return []
    rest = found[2] or ""
    return [found[1], *rest.split(), *([""] if rest[-1:].isspace() else [])]


def _values(option: Option, sessions: Sequence[str]) -> Sequence[str]:
    return sessions if option.name == "session" else option.choices or option.suggestions


def _starting_with(part: str, values: Sequence[str]) -> list[str]:
    return [value for value in values if value.lower().startswith(part.lower())]


def _safely(call: Callable[[], Sequence[str]]) -> list[str]:
    try:
        return list(call())
    except Exception:
        # A Tab must never end in a traceback: the reader did not ask for anything to run.
        return []
