"""Where ranks are, as text: for `%modal_stack`, and for the cell whose ranks wait for others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from modal_magic.protocol import Frame, RankStack, Stalled, Whereabouts
from modal_magic.ranges import name_ranks
from modal_magic.view.status import seconds_in_words

__all__ = ["SHOWN_FRAMES", "stack_lines", "stacks_as_data", "stall_sentence"]

SHOWN_FRAMES = 12
"""How many frames of a rank a browser is told."""

ABOUT_SECONDS = 1.5
"""Ranks whose waits differ by less have waited as long: they are asked once a second."""
CROWD_CHARACTERS = 40
PLURALS = (("is ", "are "), ("has ", "have "), ("does ", "do "))


def stack_lines(stacks: Iterable[RankStack], whole: bool) -> list[str]:
    """A line for each place where ranks are, and its frames below, innermost first; `whole` shows paths of files."""

    def told(stack: RankStack) -> tuple[str, ...]:
        return f"{stack.state}{_place(stack)}", *(_frame(frame, whole) for frame in stack.frames)

    lines: list[str] = []
    for (place, *frames), group in _merged(stacks, told):
        since = min((stack.where.since for stack in group if stack.where and stack.where.collective), default=0.0)
        for_how_long = f", for {seconds_in_words(since)}" if since >= 1 else ""
        lines.append(f"{_names(group)}: {place}{for_how_long}")
        lines += [f"    {frame}" for frame in frames]
    return lines


def stacks_as_data(stacks: Iterable[RankStack]) -> dict[str, dict[str, object]]:
    """Where ranks are as a browser reads it, by rank."""

    def told(stack: RankStack) -> dict[str, object]:
        where = stack.where or Whereabouts()
        return {
            "state": stack.state,
            "line": where.line,
            "function": where.function,
            "collective": where.collective,
            "group": where.group,
            "sequence": where.sequence,
            "seconds": where.since,
            "silent": stack.silent,
            "frames": [{"where": each.where, "line": each.line, "function": each.function} for each in stack.frames],
        }

    return {str(stack.rank): told(stack) for stack in stacks}


def stall_sentence(stall: Stalled) -> str:
    """Which ranks wait where and for how long, and where those are that they wait for: a fact, and nobody's fault."""
    if not any(stack.where is not None and stack.where.collective for stack in stall.waiting):
        return _laggards_sentence(stall)
    waits: list[str] = []
    for (place,), group in _merged(stall.waiting, lambda stack: (_in_collective(stack.where),)):
        seconds = [stack.where.since for stack in group if stack.where is not None]
        at_most = "up to " if max(seconds) - min(seconds) > ABOUT_SECONDS else ""
        have = "" if waits else f" {_have(group)} waited {at_most}{int(max(seconds))} s"
        waits.append(f"{_crowd(group)}{have} {place}")
    told = ", ".join(waits)
    if not stall.missing:
        return f"{told}: they wait for each other"
    absent = [
        f"{_names(group)} {'is' if len(group) == 1 else 'are'} not there: {_conjugated(group, place)}{past}"
        for (place, past), group in _merged(stall.missing, lambda stack: (_doing(stack), _past(stack, stall.waiting)))
    ]
    return f"{told}; {'; '.join(absent)}"


def _laggards_sentence(stall: Stalled) -> str:
    """Which ranks hold up the end of a cell, and what can be done about it."""
    late = [
        f"{_names(group)} {'has' if len(group) == 1 else 'have'} not: {_conjugated(group, place)}"
        for (place,), group in _merged(stall.missing, lambda stack: (_doing(stack),))
    ]
    told = f"{_names(stall.waiting)} {_have(stall.waiting)} finished the cell; {'; '.join(late)}"
    if not stall.waiting:
        groups = _merged(stall.missing, lambda stack: (_doing(stack),))
        told = "; ".join(f"{_names(group)} {_conjugated(group, place).split(' ', 1)[1]}" for (place,), group in groups)
    return f"{told}. %modal_stack shows more, an interrupt ends the wait"


def _merged(
    stacks: Iterable[RankStack], told: Callable[[RankStack], tuple[str, ...]]
) -> list[tuple[tuple[str, ...], list[RankStack]]]:
    """Ranks of which the same is told, told once."""
    groups: dict[tuple[str, ...], list[RankStack]] = {}
    for stack in stacks:
        groups.setdefault(told(stack), []).append(stack)
    return list(groups.items())


def _names(group: Iterable[RankStack]) -> str:
    return name_ranks(stack.rank for stack in group)


def _crowd(group: list[RankStack]) -> str:
    """The names of ranks, or how many there are where those would fill a line."""
    named = _names(group)
    return named if len(named) <= CROWD_CHARACTERS else f"{len(group):,} ranks"


def _have(group: list[RankStack]) -> str:
    return "has" if len(group) == 1 else "have"


def _conjugated(group: list[RankStack], phrase: str) -> str:
    """`it is …` or `they are …`, from `is …`."""
    if len(group) == 1:
        return f"it {phrase}"
    for one, many in PLURALS:
        if phrase.startswith(one):
            return f"they {many}{phrase.removeprefix(one)}"
    return f"they {phrase}"


def _in_collective(where: Whereabouts | None) -> str:
    """`in all_reduce #12 (cell line 7)`, or with the group where it is not the default one."""
    if where is None:
        return ""
    number = f" #{where.sequence}" if where.sequence else ""
    group = f"{where.group}, " if where.group not in ("", "default group") else ""
    return f"in {where.collective}{number} ({group}cell line {where.line})"


def _place(stack: RankStack) -> str:
    """What stands behind the state of a rank in a line of its own."""
    where = stack.where
    if stack.silent:
        return f", {stack.silent}"
    if stack.state == "rendezvous":
        return ", getting ready for the next cell"
    if where is None or not (where.line or where.collective):
        return ""
    called = f", in {where.function}" if where.function else ""
    line = f"cell line {where.line}" if where.line else ""
    if not where.collective:
        return f", at {line}{called}"
    number = f" #{where.sequence}" if where.sequence else ""
    group = f" ({where.group})" if where.group else ""
    return f", in {where.collective}{number}{group}{f', {line}' if line else ''}{called}"


def _doing(stack: RankStack) -> str:
    """What a rank does that is not there."""
    where = stack.where
    if stack.silent:
        return stack.silent
    if where is not None and where.collective:
        return f"is {_in_collective(where)}"
    if where is not None and where.line:
        return f"is at cell line {where.line}{f', in {where.function}' if where.function else ''}"
    known = {
        "done": "has finished the cell",
        "exited": "has left the cell by sys.exit",
        "elsewhere": "does not run this cell",
        "queued": "has not begun the cell",
        "running": "is not in a line of the cell",
    }
    return known.get(stack.state, f"is {stack.state}")


def _past(stack: RankStack, waiting: Iterable[RankStack]) -> str:
    """What is to be asked of a rank that has been where others wait, by the number: it misses no call, they differ."""
    for other in waiting:
        if stack.where is None or other.where is None or stack.where.group != other.where.group:
            continue
        if 0 < other.where.sequence <= stack.where.behind:
            number = f"#{other.where.sequence}"
            return f", past {number} already: do calls, shapes and dtypes agree on all ranks?"
    return ""


def _frame(frame: Frame, whole: bool) -> str:
    if frame.where == "cell":
        return f"cell line {frame.line}, in {frame.function}"
    file = frame.where if whole else os.path.basename(frame.where)
    return f"{file}:{frame.line}, in {frame.function}"
