"""The floor below a cell on ranks: shells that a kernel wakes itself, with no gateway, agent, key or log between."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

from tests.bench.kernel import Kernel, start_kernel

__all__ = ["CELL", "Shells", "start_shells"]

CELL = "%%shells\n"
"""What stands before the text that all shells run."""
SETUP = """\
from tests.bench.floor import Shells
get_ipython().register_magic_function(Shells({ranks}).run, "cell", "shells")
"""
LONGEST = 1 << 16


class Shells:
    """So many processes with an IPython shell each, forked from one. They end with the kernel whose they are."""

    def __init__(self, ranks: int) -> None:
        pairs = [socket.socketpair() for _ in range(ranks)]
        theirs = [there.fileno() for _, there in pairs]
        subprocess.Popen([sys.executable, "-m", "tests.bench.floor", *map(str, theirs)], pass_fds=theirs)
        self.lines = {here.fileno(): here for here, _ in pairs}
        self.answers = select.poll()
        for _, there in pairs:
            there.close()
        for line in self.lines:
            self.answers.register(line, select.POLLIN)
        self.run("", "pass")

    def run(self, line: str, cell: str) -> None:
        """Have all run a cell, and wait until they have."""
        for one in self.lines.values():
            one.send(cell.encode())
        missing = len(self.lines)
        while missing:
            for descriptor, _ in self.answers.poll():
                if not self.lines[descriptor].recv(LONGEST):
                    raise RuntimeError("a shell has ended")
                missing -= 1


@contextlib.contextmanager
def start_shells(ranks: int) -> Iterator[Kernel]:
    """A kernel with so many shells, whose cells begin with `CELL`."""
    with start_kernel(SETUP.format(ranks=ranks)) as kernel:
        yield kernel


def serve(line: socket.socket) -> None:
    """Be a shell until the kernel is gone."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    while text := line.recv(LONGEST):
        shell.run_cell(text.decode(), store_history=True)  # type: ignore[no-untyped-call]
        line.send(b"done")


def main() -> None:
    """Fork a shell for each descriptor of the command line, and wait for all of them."""
    import IPython.core.interactiveshell  # noqa: F401 - what all of them share

    for descriptor in sys.argv[1:]:
        if not os.fork():
            serve(socket.socket(fileno=int(descriptor)))
            os._exit(0)
    for _ in sys.argv[1:]:
        os.wait()


if __name__ == "__main__":
    main()
