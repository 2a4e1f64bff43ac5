"""A zygote as those see it that have started it: its process, and our ends of its pipes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modal_magic.errors import SessionError
from modal_magic.links.framing import frame, split
from modal_magic.protocol import Message
from modal_magic.specs import Here, Ping, Ready, ZygoteWord, decode_zygote_word
from modal_magic.waits import stepwise

__all__ = ["Zygote", "await_ready", "import_path", "read_at_import", "spawn"]

READ_AT_IMPORT = (
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "NUMEXPR_",
    "TORCH_",
    "PYTORCH_",
    "LD_",
    "DYLD_",
    "PYTHON",
    "KMP_",
    "CUDA_",
)
"""Variables with these beginnings are read when a module is imported: a zygote that has other values is of no use."""


@dataclass(eq=False, slots=True)
class Zygote:
    """A zygote's process and our ends of its pipes."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    buffer: bytearray = field(default_factory=bytearray)
    words: list[ZygoteWord] = field(default_factory=list)
    ready: Ready | None = None

    def tell(self, message: Message) -> None:
        """Write a word. Raises SessionError when the zygote is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(frame(message))
            self.process.stdin.flush()
        except OSError:
            raise SessionError("the process that starts ranks has ended; try again") from None

    def hear(self) -> ZygoteWord:
        """Read a word, waiting for it. Raises SessionError when none comes any more."""
        assert self.process.stdout is not None
        said = self.process.stdout.fileno()
        while not self.words:
            stepwise(lambda seconds: bool(select.select([said], [], [], seconds)[0]), None)
            data = os.read(said, 1 << 16)
            if not data:
                raise SessionError(f"the process that starts ranks has ended with exit code {self.process.wait()}")
            self.buffer += data
            self.words += [decode_zygote_word(word) for word in split(self.buffer)]
        return self.words.pop(0)

    def answers(self, seconds: float) -> bool:
        """Whether the zygote is alive and says so within these seconds."""
        assert self.process.stdout is not None
        try:
            self.tell(Ping())
            readable, _, _ = select.select([self.process.stdout], [], [], seconds)
            return bool(readable) and isinstance(self.hear(), Here)
        except (SessionError, OSError):
            return False

    def let_go(self) -> None:
        """Close our ends. A zygote that serves a session goes on; any other ends, and all that it has forked."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def end(self) -> None:
        """End a zygote that no session took. It has forked nobody and may still be importing, so it is not asked."""
        self.let_go()
        self.process.kill()
        self.process.wait()


def read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a zygote must have from its first moment."""
    return {key: value for key, value in environment.items() if key.startswith(READ_AT_IMPORT)}


def await_ready(zygote: Zygote, framework: str = "none") -> None:
    """Wait until a zygote can serve. Raises SessionError when it cannot, or lacks what `framework` needs."""
    if zygote.ready is None:
        word = zygote.hear()
        if not isinstance(word, Ready):
            raise SessionError("the process that starts ranks did not become ready")
        zygote.ready = word
    if framework != "none" and framework in zygote.ready.missing:
        raise SessionError(
            f"{framework} is not installed for {sys.executable}: `%pip install {framework}`, or run cells without a "
            "process group by --framework none"
        )


def spawn(environment: Mapping[str, str], prefix: Sequence[str] = (), preload: Sequence[str] = ()) -> Zygote:
    """Start a zygote in a session of its own, so that a kernel's Ctrl-C does not reach it.

    `prefix` stands before the command, as `ip netns exec NAME` does; `preload` are modules to import beside torch.
    """
    # One thread each while modules are imported: a thread pool in the zygote would make its forks unsafe. Ranks get
    # their own numbers.
    own = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # Each connection that we cut to free a rank would be a warning of torch's C++ code with twenty frames.
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "modal_magic.node.zygote", *preload],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**quiet, **environment, **own, "PYTHONPATH": import_path(environment)},
        start_new_session=True,
    )
    return Zygote(process, dict(environment))


def import_path(environment: Mapping[str, str]) -> str:
    """PYTHONPATH with the folder that this package was imported from: it may be a checkout that is not installed."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, [here, environment.get("PYTHONPATH", "")]))
