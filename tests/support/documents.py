"""The parts of the documents that are made from the code; `python -m tests.support.documents` writes them anew.

Such a part stands between `<!-- made from the code: NAME -->` and `<!-- end -->`, where NAME is one of `MADE`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path

from modal_magic.options import docs_table
from modal_magic.state import FREE, RANK_TABLE, SESSION_TABLE, SessionState

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
"""The documents of the project."""

PART = re.compile(r"(<!-- made from the code: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rank_states() -> str:
    """The diagram of `RANK_TABLE`."""
    steps = [(before, after, event.__name__) for (before, event), after in RANK_TABLE.items()]
    return diagram(steps, FREE)


def session_states() -> str:
    """The diagram of `SESSION_TABLE`."""
    steps = [
        (before, after, "") for before in SESSION_TABLE for after in SessionState if after in SESSION_TABLE[before]
    ]
    return diagram(steps, None)


def diagram(steps: Iterable[tuple[StrEnum, StrEnum, str]], free: frozenset[StrEnum] | None) -> str:
    """The Mermaid state diagram of these steps; what holds in every state, or in each of `free`, is drawn once."""
    befores: dict[tuple[StrEnum, str], list[StrEnum]] = {}
    for before, after, label in steps:
        befores.setdefault((after, label), []).append(before)
    leaving = {before for found in befores.values() for before in found}
    arrows: dict[tuple[str, str], list[str]] = {}
    for (after, label), found in befores.items():
        names: list[str] = list(found)
        if len(found) > 2 and set(found) == leaving - {after}:
            names = ["any"]
        elif free and free <= set(found):
            names = ["free", *(name for name in found if name not in free)]
        for name in names:
            arrows.setdefault((name, after), []).append(label)
    lines = ["stateDiagram-v2", "    [*] --> launching"]
    if free:
        inside = [f"        {state}" for state in type(next(iter(free))) if state in free]
        lines += ['    state "free for a cell" as free {', *inside, "    }"]
    if any(before == "any" for before, _ in arrows):
        lines.append('    state "any other state" as any')
    for (before, after), labels in sorted(arrows.items(), key=lambda arrow: arrow[0][0] == "any"):
        told = ", ".join(filter(None, labels))
        lines.append(f"    {before} --> {after}{f': {told}' if told else ''}")
    return "\n".join(["```mermaid", *lines, "```"])


def rooms() -> str:
    """The table of all files: what each says in its first line, and what it may import by tests/test_imports.py."""
    from tests.test_imports import FILES, GROUND, MAY_IMPORT, TREES, room_of

    def row(name: str, doors: str) -> str:
        told = (ast.get_docstring(TREES[name]) or "").splitlines()[0].rstrip(":.")
        shown = name.replace("__init__", "") if name.endswith("/__init__") else f"{name}.py"
        return f"| `{shown}` | {told} | {doors} |"

    def doors(room: str) -> str:
        allowed = MAY_IMPORT[room] - {room_of(room)}
        whole = allowed >= GROUND
        names = dict.fromkeys([*MAY_IMPORT, *FILES])
        named = [f"`{name}`" for name in names if name in allowed and not (whole and name in GROUND)]
        return ", ".join((["the ground floor"] if whole else []) + named) or "nothing of ours"

    lines = ["| File | What it says | May import |", "| --- | --- | --- |"]
    for room in MAY_IMPORT:
        if room in FILES:
            lines.append(row(room, doors(room)))
        inside = [name for name in FILES if room_of(name) == room and name not in MAY_IMPORT]
        lines += [row(name, doors(room) if name.endswith("/__init__") else "as its room") for name in inside]
    ground = ", ".join(f"`{name}`" for name in MAY_IMPORT if name in GROUND)
    return "\n".join([*lines, "", f"The ground floor: {ground}."])


MADE: Mapping[str, Callable[[], str]] = {
    "options": docs_table,
    "rank states": rank_states,
    "session states": session_states,
    "rooms": rooms,
}


def renewed(text: str) -> str:
    """A document with its made parts as the code gives them now."""
    return PART.sub(lambda part: f"{part[1]}\n{MADE[part[2]]()}\n\n{part[3]}", text)


def main() -> None:
    """Write every document anew that needs it."""
    for path in WRITTEN:
        text = path.read_text(encoding="utf-8")
        if (now := renewed(text)) != text:
            path.write_text(now, encoding="utf-8")
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
