"""The baseline of scripts: torchrun, and when its ranks print what."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.kernel import Chunk, Reply
from tests.bench.surroundings import child_environment

__all__ = ["torchrun"]


def torchrun(source: str, ranks: int = 4) -> Reply:
    """Run a script as `torchrun --standalone --nproc-per-node RANKS` does. What it printed says whether it worked.

    The exit code does not: torch 2.13 now and then aborts in destroy_process_group, after the script's last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "script.py"
        script.write_text(source)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        sent = time.time()
        process = subprocess.Popen(
            [*command, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=child_environment(),
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            chunks = tuple(Chunk(time.time(), line) for line in process.stdout)
            process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            process.stdout.close()
    return Reply(sent, time.time() - sent, chunks, sum(len(chunk.text) for chunk in chunks))
