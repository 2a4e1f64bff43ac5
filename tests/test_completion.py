"""Tab in the magics' lines: the pure function, and a real kernel."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as some

from modal_magic.magic_tables import TABLES
from modal_magic.notebook.completion import complete, fragment
from modal_magic.options import OPTIONS

SESSIONS = ("train-1", "evaluate")


def tab(line: str, cursor: int | None = None) -> list[str]:
    return complete(line, cursor, TABLES, SESSIONS)


RETRY = [option.flag for option in OPTIONS if option.name.startswith("retr")]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("%modal_distributed --rep", ["--replicas"]),
        ("%%modal_distributed --rep", ["--replicas"]),
        ("result = %modal_distributed --rep", ["--replicas"]),
        ("  %modal_distributed --replicas 4 --re", ["--restart", *RETRY, "--region"]),
        ("%modal_distributed --env A=1 --env", ["--env"]),
        ("%modal_distributed --backend ", ["auto", "local", "modal"]),
        ("%modal_distributed --backend=l", ["local"]),
        ("%modal_distributed --gpu a100-", ["A100-40GB", "A100-80GB"]),
        ("%modal_distributed --session t", ["train-1"]),
        ("%modal_distributed --session=", ["train-1", "evaluate"]),
        ("%modal_distributed --replicas ", []),
        ("%modal_distributed --restart --ba", ["--backend", "--background"]),
        ("%modal_distributed --env 'open --rep", ["--replicas"]),
        ("%modal_logs --", ["--rank", "--last", "--file", "--session"]),
        ("%modal_stop ", ["train-1", "evaluate", "--all", "--apps", "--session"]),
        ("%modal_stop ev", ["evaluate"]),
        ("%modal_distributed", []),
        ("%timeit --rep", []),
        ("print(--rep", []),
        ("", []),
    ],
)
def test_tab_offers_what_can_stand_there(line: str, found: list[str]) -> None:
    assert tab(line) == found


def test_an_empty_word_may_become_any_option_not_yet_given() -> None:
    flags = [option.flag for option in OPTIONS]
    assert tab("%%modal_distributed ") == flags
    assert tab("%%modal_distributed --replicas 4 --env=A=1 ") == [flag for flag in flags if flag != "--replicas"]


def test_in_a_cell_the_line_with_the_cursor_counts() -> None:
    cell = "%%modal_distributed --rep\nprint(--rep"
    assert tab(cell, cell.index("\n")) == ["--replicas"]
    assert tab(cell) == []


def test_what_stands_after_the_cursor_does_not_matter() -> None:
    assert tab("%modal_distributed --fr --replicas 4", len("%modal_distributed --fr")) == ["--framework"]


def test_after_an_equals_sign_only_the_value_is_replaced() -> None:
    assert fragment("%modal_distributed --gpu=H1") == "H1"
    assert fragment("%modal_distributed --env A=1") == "A=1"
    assert fragment("%modal_distributed --rep x", len("%modal_distributed --rep")) == "--rep"


@given(some.text() | some.text("%modal_stp -=\n'").map("%modal_stop {}".format), some.none() | some.integers(-5, 50))
def test_tab_never_raises_and_always_continues_the_text_before_the_cursor(text: str, cursor: int | None) -> None:
    before, found = text[:cursor], tab(text, cursor)
    assert before.endswith(fragment(text, cursor))
    assert all(option.lower().startswith(fragment(text, cursor).lower()) for option in found)


@pytest.fixture(scope="module")
def complete_in_kernel() -> Iterator[Callable[[str, int], tuple[list[str], str]]]:
    """Asks a real kernel with our extension: the matches, and the text that they replace."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import KernelManager

    folder = tempfile.TemporaryDirectory(prefix="kernel-")
    manager = KernelManager(transport="ipc", ip=f"{folder.name}/ipc")
    command = [sys.executable, "-m", "ipykernel", "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=command, display_name="test", language="python")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        reply = client.execute("%load_ext modal_magic", reply=True, timeout=60)["content"]
        assert reply["status"] == "ok", reply

        def ask(code: str, cursor: int) -> tuple[list[str], str]:
            content = client.complete(code, cursor, reply=True, timeout=30)["content"]
            return content["matches"], code[content["cursor_start"] : content["cursor_end"]]

        yield ask
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        folder.cleanup()


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("line", "found", "replaced"),
    [
        ("%modal_distributed --rep", ["--replicas"], "--rep"),
        ("%%modal_distributed --rep", ["--replicas"], "--rep"),
        ("%%modal_distributed --replicas 4 --gpu=a100-", ["A100-40GB", "A100-80GB"], "a100-"),
        ("%%modal_distributed --gpu H100!", ["H100!"], "H100!"),
        ("%modal_stop --a", ["--all", "--apps"], "--a"),
    ],
)
def test_a_real_kernel_offers_the_options_and_nothing_else(
    complete_in_kernel: Callable[[str, int], tuple[list[str], str]], line: str, found: list[str], replaced: str
) -> None:
    cell = f"{line}\nimport torch\nprint(torch.rep)\n" if line.startswith("%%") else line
    assert complete_in_kernel(cell, len(line)) == (found, replaced)
