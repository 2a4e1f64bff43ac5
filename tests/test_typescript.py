"""What the browser is told of Python stays what Python says."""

from __future__ import annotations

import json

import modal_magic
from tests.support.typescript import PATH, interfaces

ROOT = PATH.parents[2]


def test_the_types_of_the_browser_are_those_of_the_snapshot() -> None:
    assert PATH.read_text(encoding="utf-8") == interfaces(), "python -m tests.support.typescript writes them anew"


def test_both_packages_have_one_version() -> None:
    assert json.loads((ROOT / "package.json").read_text())["version"] == modal_magic.__version__


def test_what_a_browser_loads_is_small() -> None:
    built = ROOT / "modal_magic" / "labextension"
    scripts = sum(path.stat().st_size for path in built.rglob("*.js"))
    assert 10_000 < scripts < 120_000
    assert 10_000 < (ROOT / "modal_magic" / "static" / "widget.js").stat().st_size < 30_000
