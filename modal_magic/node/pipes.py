"""The reading end of a worker's stdout or stderr: bytes in, text out, the first chunk at once and then coalesced."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
from dataclasses import dataclass, field

from modal_magic.protocol import Stream

__all__ = ["OutputPipe", "open_pipe"]

COALESCE_SECONDS = 0.02
"""After a chunk has gone out the next waits so long for company."""
CHUNK_BYTES = 256 * 1024
"""So much goes out at once, whatever the clock says."""
PIPE_BYTES = 1024 * 1024
"""How far a rank may be ahead of its agent before its write waits (Linux)."""


def _decoder() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


@dataclass(slots=True)
class OutputPipe:
    """What has been read and not yet passed on. `flush_at` is when it must be, in monotonic seconds."""

    descriptor: int
    stream: Stream
    decoder: codecs.IncrementalDecoder = field(default_factory=_decoder)
    texts: list[str] = field(default_factory=list)
    size: int = 0
    last: float = 0.0
    flush_at: float | None = None
    ended: bool = False

    def read(self) -> bool:
        """Read once, without waiting. Whether there may be more."""
        if self.ended:
            return False
        try:
            data = os.read(self.descriptor, CHUNK_BYTES)
        except BlockingIOError:
            return False
        self.ended = not data
        # A character that is cut between two chunks waits in the decoder for its second half.
        if text := self.decoder.decode(data, final=self.ended):
            self.texts.append(text)
            self.size += len(data)
        return not self.ended

    def read_all(self) -> None:
        """Read what is in the pipe now. A writer that goes on writing does not keep us: a pipe holds only so much."""
        before = self.size
        while self.read() and self.size - before < PIPE_BYTES:
            pass

    def due(self, now: float) -> bool:
        """Whether what has been read should go out now; if not, `flush_at` says when."""
        if now - self.last >= COALESCE_SECONDS or self.size >= CHUNK_BYTES:
            return True
        self.flush_at = self.last + COALESCE_SECONDS
        return False

    def take(self, now: float) -> str:
        """All text that has been read."""
        text = "".join(self.texts)
        if text:
            self.last = now
        self.texts.clear()
        self.size, self.flush_at = 0, None
        return text

    def close(self) -> None:
        """Close the descriptor."""
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


def open_pipe(stream: Stream) -> tuple[OutputPipe, int]:
    """A new pipe: our reading end, and the writing end for the worker."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # a system limit; the default size does too
            fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return OutputPipe(reading, stream), writing
