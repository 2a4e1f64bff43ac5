"""A process that may have only so much memory: the system kills it if it takes more (control groups; root on Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOTS = {Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes", Path("/sys/fs/cgroup"): "memory.max"}
"""Where memory is limited, by the name of the file that takes the limit: version 1, version 2."""


def _root() -> Path | None:
    return next((root for root in ROOTS if (root / "cgroup.procs").exists() and os.access(root, os.W_OK)), None)


def possible() -> bool:
    """Whether this process may limit the memory of others."""
    return _root() is not None


@contextmanager
def limited(pid: int, size: int) -> Iterator[None]:
    """Let a process have `size` bytes of memory. It must be gone at the end."""
    root = _root()
    assert root is not None
    group = root / f"modal-magic-{pid}"
    group.mkdir()
    try:
        (group / ROOTS[root]).write_text(str(size))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        group.rmdir()
