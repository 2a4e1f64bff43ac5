"""The files of an event log: records one after the other in files of about one size, of which the oldest can go."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from modal_magic.protocol import NOISE, Record, decode_record

__all__ = ["HEADER_BYTES", "Entry", "Segments", "frame", "read_records", "split"]

PARTS = 32
"""The log is made of about so many files, so that the oldest goes in small parts."""
SMALLEST_BYTES = 64 * 1024
READ_BYTES = 1024 * 1024

_HEADER = struct.Struct("<QIB")
HEADER_BYTES = _HEADER.size


class Entry(NamedTuple):
    """A record as it lies in a file: its number, whether it was withheld from clients, and its bytes."""

    number: int
    withheld: bool
    record: bytes


def frame(entry: Entry) -> bytes:
    """The bytes of an entry in a file."""
    return _HEADER.pack(entry.number, len(entry.record), entry.withheld) + entry.record


def split(data: bytes) -> tuple[list[Entry], int]:
    """The whole entries at the front of some bytes, and how many bytes the first and those up to the last need.

    Where not even one is whole, that is the size of the first, or 0 where it cannot be told.
    """
    entries: list[Entry] = []
    start = 0
    while len(data) - start >= HEADER_BYTES:
        number, length, withheld = _HEADER.unpack_from(data, start)
        end = start + HEADER_BYTES + length
        if end > len(data):
            return entries, start or end
        entries.append(Entry(number, bool(withheld), data[start + HEADER_BYTES : end]))
        start = end
    return entries, start


@dataclass(slots=True)
class _Segment:
    start: int
    path: Path
    descriptor: int


class Segments:
    """A stream of bytes in files of a folder. When it is longer than `limit` bytes the oldest file goes.

    Positions count from the beginning of the stream, also when that is gone. A class because files must be closed.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._part = max(SMALLEST_BYTES, limit // PARTS)
        self._segments: list[_Segment] = []
        self._made = 0
        self.end = 0

    @property
    def start(self) -> int:
        """The position of the oldest byte that is there."""
        return self._segments[0].start if self._segments else self.end

    def write(self, data: bytes) -> bool:
        """Add bytes at the end, all or none, and say whether they are the first of a file.

        Raises OSError where they cannot be written.
        """
        if not self._segments or self.end - self._segments[-1].start >= self._part:
            self._begin()
        newest = self._segments[-1]
        first = self.end == newest.start
        rest = memoryview(data)
        at = self.end - newest.start
        while rest:  # at its place, so that what a write that failed has left is written over
            written = os.pwrite(newest.descriptor, rest, at)
            rest, at = rest[written:], at + written
        self.end += len(data)
        while self.end - self.start > self._limit and len(self._segments) > 1:
            self._remove(self._segments.pop(0))
        return first

    def read(self, position: int, size: int) -> bytes:
        """Up to `size` bytes from a position on; they end where their file does."""
        for index in reversed(range(len(self._segments))):
            segment = self._segments[index]
            if segment.start <= position:
                end = self._segments[index + 1].start if index + 1 < len(self._segments) else self.end
                return os.pread(segment.descriptor, min(size, end - position), position - segment.start)
        return b""

    def close(self, keep: bool = False) -> None:
        """Close all files, and remove them where they are not to be kept."""
        for segment in self._segments:
            if keep:
                os.close(segment.descriptor)
            else:
                self._remove(segment)
        self._segments.clear()
        self.end = 0

    def _begin(self) -> None:
        path = self._folder / f"events-{self._made + 1:06}.log"
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)  # follows no link
        self._made += 1
        self._segments.append(_Segment(self.end, path, descriptor))

    @staticmethod
    def _remove(segment: _Segment) -> None:
        os.close(segment.descriptor)
        with contextlib.suppress(OSError):
            segment.path.unlink()


def read_records(folder: Path) -> Iterator[Record]:
    """The records in the files of a log that nobody writes any more, oldest first; what is damaged is left out."""
    for path in sorted(folder.glob("events-*.log")):
        with path.open("rb") as file, contextlib.suppress(*NOISE, msgspec.ValidationError):
            data = b""
            while more := file.read(READ_BYTES):
                entries, used = split(data + more)
                data = (data + more)[used:] if entries else data + more
                for entry in entries:
                    yield decode_record(entry.record)
