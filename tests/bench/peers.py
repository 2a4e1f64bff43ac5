"""ipyparallel, set up as its documentation says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.bench.kernel import Kernel, start_kernel

__all__ = ["PX", "start_ipyparallel"]

PX = "%%px"
START = """\
import ipyparallel
import logging
cluster = ipyparallel.Cluster(n={engines}, log_level=logging.ERROR)
client = cluster.start_and_connect_sync(activate=True)
"""
STOP = "client.close(); cluster.stop_cluster_sync()"


@contextlib.contextmanager
def start_ipyparallel(engines: int) -> Iterator[Kernel]:
    """A kernel whose `%%px` runs cells on so many engines."""
    with start_kernel(START.format(engines=engines)) as kernel:
        try:
            kernel.execute(f"{PX}\npass")
            yield kernel
        finally:
            kernel.execute(STOP, 15)
