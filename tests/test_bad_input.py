"""What makes no sense gets one clear line, starts nothing and loses nothing (real kernel)."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from modal_magic import registry
from tests.support.notebook import Notebook

pytestmark = [pytest.mark.patient, pytest.mark.kernel]

CELL = "%%modal_distributed {}\nprint(1)"


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--replica 4", ["unknown option --replica", "--replicas"]),
        ("--replicas 0", ["--replicas 0", "1 to 1024"]),
        ("--replicas -1", ["--replicas -1", "1 to 1024"]),
        ("--replicas x", ["--replicas x"]),
        ("--replicas 100000", ["--replicas 100000", "1 to 1024"]),
        ("--gpu banana", ["--gpu banana"]),
        ("--gpu A100:99", ["--gpu A100:99"]),
        ("--ranks 2-0 --backend local", ["--ranks 2-0"]),
        ("--backend cloud", ["--backend cloud", "local"]),
        ("--output-limit much", ["--output-limit much"]),
        ("--env NOVALUE", ["--env"]),
        ("--session 'a b'", ["--session"]),
        ("stray", ["unexpected word stray"]),
    ],
)
def test_a_line_that_makes_no_sense_is_refused_in_one_line(book: Notebook, line: str, parts: list[str]) -> None:
    before = registry.names()
    shown = book.run(CELL.format(line))
    assert shown.error_name == "UsageError"
    assert "\n" not in shown.error
    for part in parts:
        assert part in shown.error
    assert "Traceback" not in shown.traceback
    assert registry.names() == before and not shown.stdout


def test_ranks_that_are_not_there_are_refused_and_nothing_is_started_or_lost(book: Notebook) -> None:
    before = registry.names()
    shown = book.run("%%modal_distributed --replicas 2 --backend local --session new --ranks 0,7\nprint(1)")
    assert "there is no rank 7" in shown.error and "0-1" in shown.error and not shown.stdout
    assert registry.names() == before
    book.run("%%modal_distributed --replicas 2 --backend local --session new\nx = rank")
    assert "there is no rank 7" in book.run("%%modal_distributed --restart --ranks 7\nprint(1)").error
    shown = book.run("%%modal_distributed --replicas 3 --session new --restart --show 5\nprint(1)")
    assert "there is no rank 5" in shown.error
    assert book.run("%%modal_distributed --ranks 1\nprint(x, world_size)").lines == ["[rank 1] 1 2"]
    book.run("%modal_stop new")


def test_a_syntax_error_is_shown_as_python_shows_it_and_nothing_is_sent(book: Notebook) -> None:
    book.run("%%modal_distributed --replicas 2 --backend local\nprint('in the log')")
    number = int(book.run("print(len(In) - 1)").stdout)
    shown = book.run("%%modal_distributed\n\n  \nx = 1\nfor i in range(3) print(i)\n")
    assert f'"Cell In[{number + 1}]", line 5' in shown.traceback
    assert shown.traceback.splitlines()[-1].startswith("SyntaxError: ")
    assert "for i in range(3) print(i)" in shown.traceback
    assert "modal_magic" not in shown.traceback
    assert "in the log" in book.run("%modal_logs").stdout


@pytest.mark.parametrize("magic", ["%%modal_distributed", "    %modal_status", "x = %modal_stop"])
def test_a_magic_of_ours_within_a_cell_is_refused_in_one_line(book: Notebook, magic: str) -> None:
    name = magic.removeprefix("x = ").strip()
    shown = book.run(f"%%modal_distributed --backend local\nif True:\n    y = '%modal_stop'\n{magic}\n")
    assert shown.error == (
        f"{name} at cell line 4 is for the notebook, and its ranks do not have it: give it a cell of its own"
    )
    assert "Traceback" not in shown.traceback and not shown.stdout


@pytest.mark.parametrize("cell", ["", "\n\n", "   \n"])
def test_an_empty_cell_is_refused(book: Notebook, cell: str) -> None:
    shown = book.run(f"%%modal_distributed --replicas 2 --backend local\n{cell}")
    assert "empty" in shown.error + shown.stderr  # a cell with no line at all is refused by IPython itself


def test_a_cell_of_twenty_megabytes_is_refused(book: Notebook) -> None:
    book.run("big = 'x = \"' + 'y' * 20_000_000 + '\"'")
    shown = book.run("get_ipython().run_cell_magic('modal_distributed', '--replicas 2 --backend local', big)")
    assert shown.error_name == "UsageError" and "20 MB" in shown.error and "at most 10 MB" in shown.error


@pytest.mark.parametrize(
    "line", ["%modal_stop sesion-1", "%modal_logs --session nowhere", "%modal_restart --session no"]
)
def test_an_unknown_session_is_named_with_the_nearest(book: Notebook, line: str) -> None:
    book.run("%modal_distributed --replicas 2 --backend local")
    shown = book.run(line)
    assert shown.error_name == "UsageError" and "there is no session" in shown.error and "session-" in shown.error


def test_an_unknown_key_in_the_config_file_is_named(fresh_book: Notebook, tmp_path: Path) -> None:
    (tmp_path / "modal_magic.toml").write_text("replica = 4\n")
    fresh_book.run(f"%cd {tmp_path}")
    shown = fresh_book.run(CELL.format("--backend local"))
    assert shown.error_name == "UsageError"
    assert "replica" in shown.error and "replicas" in shown.error and "modal_magic.toml" in shown.error


def test_the_config_file_and_the_environment_set_defaults(fresh_book: Notebook, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.modal_magic]\nreplicas = 2\nbackend = "local"\n')
    fresh_book.run(f"%cd {tmp_path}")
    fresh_book.run("import os; os.environ['MODAL_MAGIC_FRAMEWORK'] = 'none'")
    assert fresh_book.run("%%modal_distributed\nprint(world_size)").lines == ["[rank 0] 2", "[rank 1] 2"]
    assert "--framework none" in fresh_book.run("%modal_status").stdout


def test_torch_that_is_not_installed_is_said_with_how_to_install_it(fresh_book: Notebook, tmp_path: Path) -> None:
    hidden = tmp_path / "torch"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n")
    fresh_book.run(f"import os; os.environ['PYTHONPATH'] = {str(tmp_path)!r}")
    shown = fresh_book.run(CELL.format("--backend local"))
    assert shown.error_name == "SessionError"
    assert "torch is not installed" in shown.error and "%pip install torch" in shown.error
    assert fresh_book.run(CELL.format("--backend local --framework none")).stdout == "[rank 0] 1\n"


def test_a_stale_connection_file_is_removed_and_said(fresh_book: Notebook) -> None:
    fresh_book.run("%modal_distributed --session stale --backend local --framework none")
    kept = (registry.folder_of("stale") / "connection.json").read_bytes()
    fresh_book.run("%modal_stop stale")
    registry.claim("stale")
    path = registry.folder_of("stale") / "connection.json"
    path.write_bytes(kept)
    path.chmod(0o600)
    shown = fresh_book.run("%modal_logs --session stale")
    assert shown.error_name == "GatewayLost" and "is gone" in shown.error
    assert "stale" not in registry.names()


def test_what_cannot_be_reached_is_given_up_when_that_is_asked_for_and_all_others_are_stopped(
    fresh_book: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODAL_MAGIC_RUNTIME_DIR", str(tmp_path))
    fresh_book.run(f"import os; os.environ['MODAL_MAGIC_RUNTIME_DIR'] = {str(tmp_path)!r}")
    fresh_book.run("%modal_distributed --session near --backend local --framework none")
    near = registry.read("near")
    registry.claim("far")
    registry.publish(msgspec.structs.replace(near, session="far", port=1, pid=0, born=0.0))
    shown = fresh_book.run("%%modal_distributed --session far\n1")
    assert shown.error_name == "GatewayBusy" and "cannot be reached" in shown.error
    (registry.folder_of(registry.claim("bad")) / "connection.json").write_text("{")
    assert registry.names() == ["bad", "far", "near"]
    shown = fresh_book.run("%modal_stop --all")
    assert shown.error_name == "SessionError" and "delete it" in shown.error
    assert "session 'far' cannot be reached" in shown.stdout and "is removed" in shown.stdout
    assert "near is stopped" in shown.stdout
    assert registry.names() == ["bad"]


def test_a_tampered_connection_file_is_not_trusted(fresh_book: Notebook) -> None:
    registry.claim("tampered")
    path = registry.folder_of("tampered") / "connection.json"
    path.write_text('{"session": "tampered", "host": "127.0.0.1"}')
    path.chmod(0o600)
    shown = fresh_book.run("%modal_logs --session tampered")
    assert shown.error_name == "SessionError" and "damaged" in shown.error and "delete it" in shown.error
    path.chmod(0o644)
    assert "not trusted" in fresh_book.run("%modal_logs --session tampered").error
    registry.forget("tampered")
