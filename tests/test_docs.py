"""The documents say what the code does: made parts are current, names and links lead somewhere, examples run."""

from __future__ import annotations

import ast
import builtins
import re
import signal
from pathlib import Path

import pytest

import modal_magic
from modal_magic.magic_tables import TABLES
from modal_magic.view.picture import MIME
from tests.support.documents import PART, ROOT, WRITTEN, renewed
from tests.support.notebook import Shown, notebook

pytestmark = pytest.mark.patient

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in WRITTEN}
OWN = {name: text for name, text in TEXTS.items() if name != "docs/benchmarks.md"}
"""All documents but the one that `make bench` writes."""
README = TEXTS["README.md"]
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(Path(modal_magic.__file__).parent.rglob("*.py"))}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]+\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
TOLD_EARLY = re.compile(r"rank \d+ raised .* at cell line \d+\.( Freeing ranks? \S+)?")
VARYING = (
    (r"\bpid \d+", "pid N"),
    (r"\bup \S+ s\b", "up T"),
    (r"\b(zygote|gateway|fork|rendezvous|first cell) [\d.]+ s\b", r"\1 T"),
    (r"session-\d+", "session-N"),
    (r"In\[\d+\]", "In[N]"),
)


def spans(text: str) -> list[str]:
    """What a document has in code spans, outside its fences."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """What can follow # in a link to a document, as GitHub names headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---- what is made from the code --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN)
def test_the_made_parts_are_what_the_code_gives(name: str) -> None:
    assert renewed(OWN[name]) == OWN[name], "python -m tests.support.documents writes them anew"


def test_every_table_and_diagram_has_its_place() -> None:
    placed = {(name, part[2]) for name, text in OWN.items() for part in PART.finditer(text)}
    assert placed == {
        ("docs/options.md", "options"),
        ("docs/states.md", "rank states"),
        ("docs/states.md", "session states"),
        ("docs/architecture.md", "rooms"),
    }


# ---- what is named is there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_within_the_project_leads_somewhere(name: str) -> None:
    for target, anchor in LINK.findall(TEXTS[name]):
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), anchor


def test_every_make_target_in_the_readme_is_there() -> None:
    named = set(re.findall(r"^make (\w+)", README, re.MULTILINE)) | set(re.findall(r"`make (\w+)`", README))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test", "lab"} <= named <= targets


def test_the_readme_names_every_magic_and_no_other() -> None:
    assert set(re.findall(r"%(modal_\w+)", README)) == set(TABLES)


@pytest.mark.parametrize("name", OWN)
def test_every_option_that_is_named_is_there(name: str) -> None:
    flags = {flag for table in TABLES.values() for option in table for flag in option.flags}
    ours = re.sub(r"`jupyter [^`]+`", "", OWN[name])
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", ours)) <= flags


@pytest.mark.parametrize("name", OWN)
def test_every_file_that_is_named_is_there(name: str) -> None:
    named = {span for span in spans(OWN[name]) if re.fullmatch(r"[\w./-]+(\.py|\.md|/)", span)}
    places = (ROOT, ROOT / "docs", ROOT / "modal_magic")
    assert {span for span in named if not any((place / span).exists() for place in places)} == set()


@pytest.mark.parametrize("name", ["docs/architecture.md", "docs/states.md"])
def test_every_name_of_the_code_is_there(name: str) -> None:
    named = {span for span in spans(OWN[name]) if re.fullmatch(r"[A-Z][a-z]+[A-Za-z]*|[A-Z]+(_[A-Z]+)*|\w+_\w+", span)}
    code = "\n".join(SOURCES.values())
    assert {span for span in named - set(dir(builtins)) if not re.search(rf"\b{span}\b", code)} == set()


def test_the_changelog_begins_with_this_version() -> None:
    assert re.search(r"^## \[([^\]]+)\]", TEXTS["CHANGELOG.md"], re.MULTILINE)[1] == modal_magic.__version__  # type: ignore[index]


# ---- what is quoted is true ------------------------------------------------------------------------------------------


def pieces() -> list[str]:
    """The pieces of text that the code makes its messages of, longest first."""
    found = {
        node.value.strip(" \n.,:;'`()").lower()
        for source in SOURCES.values()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return sorted((piece for piece in found if piece), key=len, reverse=True)


def test_messages_in_the_documents_are_made_of_the_code_s_own_words() -> None:
    known = pieces()
    blocks = [block for kind, block in FENCE.findall(OWN["docs/failures.md"]) if kind == "text"]
    quoted = [line for block in blocks for line in block.splitlines()]
    assert len(quoted) > 15
    for line in quoted:
        rest = line.lower()
        for piece in known:
            if piece in rest:
                rest = re.sub(rf"(?<!\w){re.escape(piece)}s?(?!\w)", "\0", rest)
        strange = set(re.findall(r"[a-z]{4,}", rest)) - EXAMPLES
        assert not strange, f"no message is like {line!r}: {strange}"


EXAMPLES = {
    *("barrier", "space", "reduce", "train", "shapes", "python", "model", "defined"),
    *(name.lower() for name in (*dir(builtins), *signal.Signals.__members__)),
}
"""Words in the quoted messages that come from what the user did, and from the system."""


def comparable(text: str) -> list[str]:
    """The lines of a text without what differs from run to run; sorted, for ranks print in any order.

    Whether a failure is also told while other ranks are being freed depends on how long that takes.
    """
    text = ANSI.sub("", text)
    for varying, constant in VARYING:
        text = re.sub(varying, constant, text)
    lines = (line.rstrip() for line in text.splitlines())
    return sorted(line for line in lines if line and not TOLD_EARLY.fullmatch(line))


def told(shown: Shown) -> str:
    """All that a cell showed, but for the picture, which only a cell that takes its time has."""
    displays = "\n".join(str(data.get("text/plain", "")) for data in shown.displays if MIME not in data)
    return "\n".join((shown.stdout, shown.stderr, displays, shown.traceback))


@pytest.mark.kernel
def test_the_examples_of_the_readme_show_what_it_says(runtime_folder: Path) -> None:
    blocks = FENCE.findall(README)
    followed = [*blocks[1:], ("", "")]
    with notebook() as book:
        try:
            for (kind, source), (after, expected) in zip(blocks, followed, strict=True):
                if kind == "python":
                    shown = told(book.run(source.strip()))
                    assert comparable(shown) == comparable(expected if after == "text" else ""), source
        finally:
            book.run("%modal_stop")
