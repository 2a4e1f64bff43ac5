"""Where no cell has an output of its own: runs in the background in a terminal's IPython (a real process)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import gone, ours

pytestmark = pytest.mark.patient

SCRIPT = """
%load_ext modal_magic
run = get_ipython().run_cell_magic("modal_distributed", "--backend local --framework none --background --handle h --end-with-kernel", "print('from a rank')\\nrank + 41")
print("same", run is h)
run.wait().result
print(run.output)
print("any cell")
get_ipython().run_cell_magic("modal_distributed", "", "print('next')")
exit()
"""  # noqa: E501


def test_the_end_of_a_run_is_told_after_any_cell_and_the_session_ends_with_ipython(runtime_folder: Path) -> None:
    before = {process.pid for process in ours(str(runtime_folder))}
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--simple-prompt", "--colors=NoColor", "--no-banner"],
        input=SCRIPT, capture_output=True, text=True, timeout=220, env={**os.environ, "TERM": "dumb"},
    )  # fmt: skip
    assert "same True" in done.stdout
    assert "{0: '41'}" in done.stdout
    assert "[rank 0] from a rank\n[rank 0] 41" in done.stdout
    assert done.stdout.count(" is done after ") == 1
    assert done.stdout.index(" is done after ") < done.stdout.index("any cell") < done.stdout.index("[rank 0] next")
    assert gone([process.pid for process in ours(str(runtime_folder)) if process.pid not in before])
