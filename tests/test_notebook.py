"""The notebook of `make demo`, run as a user would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import gone, ours

pytestmark = pytest.mark.patient

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.kernel
def test_the_digits_notebook_trains_on_four_ranks_and_leaves_nothing(runtime_folder: Path) -> None:
    before = {process.pid for process in ours(str(runtime_folder))}
    done = subprocess.run(
        [sys.executable, "notebooks/execute.py", "notebooks/01_digits_ddp.ipynb"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(4):
        assert f"[rank {rank}] epoch 11 " in done.stdout
        assert f"[rank {rank}] 9,610 parameters equal on all 4 ranks" in done.stdout
    accuracies = [float(found) for found in re.findall(r"test accuracy ([\d.]+)", done.stdout)]
    assert len(accuracies) == 2 and accuracies[-1] >= 0.95
    assert gone([process.pid for process in ours(str(runtime_folder)) if process.pid not in before])


@pytest.mark.kernel
def test_the_progress_notebook_ends_in_tables_of_its_ranks(runtime_folder: Path) -> None:
    before = {process.pid for process in ours(str(runtime_folder))}
    command = [sys.executable, "notebooks/execute.py", "notebooks/03_progress.ipynb"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it/s]" not in done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith(("0 done", "1 done"))] == [
        "0 done 9.0 0.1",
        "1 done 9.0 0.1",
    ]
    assert gone([process.pid for process in ours(str(runtime_folder)) if process.pid not in before])


@pytest.mark.kernel
def test_a_notebook_that_fails_ends_in_an_error(runtime_folder: Path, tmp_path: Path) -> None:
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(notebook, tmp_path / "fails.ipynb")
    command = [sys.executable, "notebooks/execute.py", str(tmp_path / "fails.ipynb")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=220, check=False)
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr
