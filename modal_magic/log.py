"""The event log: every record once, numbered, in memory up to a limit and on disk past it, replayed from any number."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

from modal_magic.protocol import Event, Record, decode_record, encode

__all__ = ["EventLog"]

MEMORY_BYTES = 4 * 1024 * 1024


class EventLog:
    """Records numbered from 1 without gaps. The newest `memory` bytes are held in memory, older ones in `path`.

    A class because a file must be closed. The file is made at the first spill, with mode 0600, and goes with `close`.
    """

    def __init__(self, path: Path, memory: int = MEMORY_BYTES) -> None:
        self._path = path
        self._limit = memory
        self._recent: list[bytes] = []
        self._held = 0
        self._offsets = array("Q", [0])
        self._descriptor: int | None = None

    @property
    def newest(self) -> int:
        """The number of the newest record, 0 when there is none."""
        return len(self._offsets) - 1 + len(self._recent)

    def append(self, event: Event, now: float) -> bytes:
        """Add an event and return its record's bytes. `now` is in seconds since 1970."""
        encoded = encode(Record(self.newest + 1, now, event))
        self._recent.append(encoded)
        self._held += len(encoded)
        if self._held > self._limit:
            self._spill()
        return encoded

    def since(self, number: int, size: int) -> list[bytes]:
        """The records after `number`, in order, up to about `size` bytes and at least one if there is one."""
        found: list[bytes] = []
        for encoded in self._from(number):
            found.append(encoded)
            size -= len(encoded)
            if size <= 0:
                break
        return found

    def events(self) -> Iterator[Event]:
        """Every event so far, oldest first."""
        for encoded in self._from(0):
            yield decode_record(encoded).event

    def close(self) -> None:
        """Forget everything and remove the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._path.unlink(missing_ok=True)
            self._descriptor = None

    def _from(self, number: int) -> Iterator[bytes]:
        spilled = len(self._offsets) - 1
        for index in range(number, spilled):
            start, end = self._offsets[index], self._offsets[index + 1]
            assert self._descriptor is not None
            yield os.pread(self._descriptor, end - start, start)
        yield from self._recent[max(0, number - spilled) :]

    def _spill(self) -> None:
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
            self._descriptor = os.open(self._path, flags, 0o600)
        keep = self._held // 2
        while self._recent and self._held > keep:
            oldest = self._recent[: max(1, len(self._recent) // 2)]
            del self._recent[: len(oldest)]
            for encoded in oldest:
                self._offsets.append(self._offsets[-1] + len(encoded))
            block = memoryview(b"".join(oldest))
            self._held -= len(block)
            while block:
                block = block[os.write(self._descriptor, block) :]
