"""The table, on a terminal and in docs/benchmarks.md."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.bench.figures import Bench, Row

__all__ = ["document", "machine", "terminal"]

PACKAGES = ("torch", "ipython", "ipykernel", "jupyter_client", "pyzmq", "msgspec", "ipyparallel", "torchmonarch")
HEAD = ("figure", "measured", "beside it", "bar", "met")
Result = tuple[Bench, Sequence[Row]]


def machine() -> list[str]:
    """What was measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    model = found[1] if found else platform.processor()
    memory = psutil.virtual_memory().total / 2**30
    system = f"{platform.system()} {platform.release().split('-')[0]}"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return [
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, {system}",
        f"Python {platform.python_version()}, {versions}",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, load before the run {os.getloadavg()[0]:.1f}",
    ]


def cells(row: Row) -> tuple[str, ...]:
    """A row as texts."""
    met = "" if row.met is None else "yes" if row.met else "**missed**"
    return row.figure, row.ours, row.beside, row.bar, met


def terminal(rows: Sequence[Row]) -> str:
    """Rows in columns."""
    table = [HEAD, *map(cells, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def document(results: Sequence[Result], about: Sequence[str], seconds: float) -> str:
    """The whole of docs/benchmarks.md."""
    rows = [row for _, found in results for row in found]
    barred = [row for row in rows if row.met is not None]
    missed = [row for row in barred if not row.met]
    verdict = f"{len(barred) - len(missed)} of {len(barred)} bars are met."
    if missed:
        verdict += " Missed: " + "; ".join(row.figure for row in missed) + "."
    table = [HEAD, ("---",) * len(HEAD), *map(cells, rows)]
    return "\n".join(
        [
            "# Benchmarks",
            "",
            f"Written by `python -m tests.bench` (`make bench`): one run of {seconds / 60:.1f} minutes, every figure",
            "beside a baseline measured in the same run.",
            "",
            *(f"- {line}" for line in about),
            "",
            verdict,
            "",
            *("| " + " | ".join(line) + " |" for line in table),
            "",
            "## How each is measured",
            "",
            *(f"- **{bench.name}**: {bench.how}" for bench, _ in results),
            "",
        ]
    )
