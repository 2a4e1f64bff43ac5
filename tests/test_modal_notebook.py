"""The notebook of `make demo` on four containers, and a session that a restarted kernel finds again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from modal_magic import Session, registry
from modal_magic.backends.modal_inventory import left_running
from modal_magic.sessions.resources import Resources
from tests.modal_emulator.handle import Handle
from tests.support.eventually import seen
from tests.support.modal_service import modal_book
from tests.support.namespaces import possible
from tests.support.notebook import Notebook

__all__ = ["modal_book"]

pytestmark = [
    pytest.mark.patient,
    pytest.mark.timeout(300),  # they wait for containers, behind all else that this machine does
    pytest.mark.namespaces,
    pytest.mark.kernel,
    pytest.mark.skipif(not possible(), reason="network namespaces need root and iproute2 on Linux"),
]

ROOT = Path(__file__).resolve().parents[1]


def test_the_digits_notebook_trains_on_four_containers_and_leaves_none(modal_service: Handle, tmp_path: Path) -> None:
    source = (ROOT / "notebooks" / "01_digits_ddp.ipynb").read_text(encoding="utf-8")
    assert source.count("--backend local") == 1
    path = tmp_path / "digits.ipynb"
    path.write_text(source.replace("--backend local", "--backend modal"), encoding="utf-8")
    done = executed(path, modal_service)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(4):
        assert f"[rank {rank}] 9,610 parameters equal on all 4 ranks" in done.stdout
    accuracies = [float(found) for found in re.findall(r"test accuracy ([\d.]+)", done.stdout)]
    assert len(accuracies) == 2 and accuracies[-1] >= 0.95
    assert seen(lambda: not modal_service.containers())


def test_the_tour_of_modal_says_what_it_costs_and_leaves_neither_container_nor_app(
    modal_service: Handle, tmp_path: Path
) -> None:
    source = (ROOT / "notebooks" / "02_modal.ipynb").read_text(encoding="utf-8")
    path = tmp_path / "tour.ipynb"
    path.write_text(source.replace("tour:/tour", f"tour:{tmp_path}/volume"), encoding="utf-8")
    done = executed(path, modal_service)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "found 0 GPUs for 1 rank of a node: they run on the CPU instead" in done.stdout  # the emulator has none
    assert re.search(r"costs \$2\.\d\d an hour, .*\$\S+ so far", done.stdout)
    for rank in (0, 1):
        assert f"[rank {rank}] saved at step 30" in done.stdout
    assert (
        re.search(r"\d+ idle apps? removed from Modal: modal-magic-\w+", done.stdout) and not modal_service.containers()
    )


def test_a_restarted_kernel_goes_on_with_the_session(modal_book: Notebook, modal_service: Handle) -> None:
    modal_book.run("%%modal_distributed --replicas 1 --backend modal --session kept\nprecious = rank + 41")
    before = modal_service.containers()
    modal_book.manager.restart_kernel(now=True)
    modal_book.client.wait_for_ready(timeout=60)
    modal_book.run("%load_ext modal_magic")
    assert modal_book.run("%%modal_distributed --session kept\nprint(precious + 1)").lines[0] == "[rank 0] 42"
    assert modal_service.containers() == before
    # Modal lists what other sessions run there: a stop waits for its own, and what it finds of these too late it ends.
    modal_book.run("%%modal_distributed --backend modal --session beside\npass")
    others = [one for one in modal_service.containers() if one not in before]
    assert modal_book.run("%modal_stop kept").stdout == "kept is stopped\n"
    assert modal_service.containers() == others != []
    with modal_service.reached():
        assert left_running(registry.read("beside").meeting, 0.0) == []
    assert seen(lambda: not modal_service.containers())


def test_a_session_of_another_version_is_said_to_be_and_can_be_stopped(
    modal_book: Notebook, modal_service: Handle, resources: Resources, runtime_folder: Path
) -> None:
    for backend in ("local", "modal"):
        with modal_service.reached():
            Session(resources=resources, backend=backend, session="older", framework="none").ready().detach()
        file = runtime_folder / "older" / "connection.json"
        file.write_text(file.read_text().replace('"version": ', '"of_older": 1, "version": 10'))
        refused = modal_book.run("%%modal_distributed --session older\npass")
        assert "'older' was started by another version of modal_magic, which speaks protocol 10" in refused.error
        assert modal_book.run("%modal_stop older").stdout == "older is stopped\n"
        assert not file.parent.exists() and not modal_service.containers()


def executed(path: Path, service: Handle) -> subprocess.CompletedProcess[str]:
    """Execute a notebook that reaches the emulator. A session that it leaves, as one that fails does, is ended."""
    try:
        with service.reached():
            command = [sys.executable, "notebooks/execute.py", str(path)]
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    finally:
        with service.reached():
            for name in registry.names():
                Session.attach(name).stop()
