"""Waits in gloo that go on though their connection is gone: found, and called off (Linux, on x86-64 and ARM).

Where a peer dies while a message to it is half sent, gloo (torch 2.13) closes the connection, but does not tell the
thread that waits for that message: it sits there until the group's time is over, after half an hour. Nothing that can
be done to a socket frees it, and no function of torch does. gloo itself can call off a wait, given its buffer.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GlooWaits"]

FUTEX = ("202", "98")
"""The number of the system call in which a thread waits, on x86-64 and on ARM."""
BUFFER = "_ZN4gloo9transport3tcp13UnboundBuffer"
CALL_OFF = (f"{BUFFER}13abortWaitSendEv", f"{BUFFER}13abortWaitRecvEv")
"""The methods of a buffer that end a wait, as the linker knows them. They are virtual, so its table has them too."""
WORD = 8
OBJECT_WORDS = 32
"""From where a thread waits in it, a buffer begins at most so many words earlier."""
TABLE_WORDS = 16


@dataclass(slots=True)
class GlooWaits:
    """Which waits there are, by the look before: (thread, address). One that lasts from a look to the next is stuck."""

    seen: frozenset[tuple[str, int]] = frozenset()

    def call_off(self) -> None:
        """End the waits that were there at the last call too. The connections of the groups must have been cut."""
        waits = frozenset(_futex_waits())
        stuck, self.seen = waits & self.seen, waits
        if not stuck:
            return
        with contextlib.suppress(OSError, AttributeError):  # another system, or another torch
            library = ctypes.CDLL(_library())
            methods = [getattr(library, name) for name in CALL_OFF]
            addresses = [ctypes.cast(method, ctypes.c_void_p).value or 0 for method in methods]
            with open("/proc/self/mem", "rb", buffering=0) as memory:
                buffers = {found for _, wait in stuck if (found := _buffer(memory.fileno(), wait, addresses))}
            for buffer in buffers:
                for method in methods:
                    method(ctypes.c_void_p(buffer))


def _futex_waits() -> Iterator[tuple[str, int]]:
    """The threads that wait for another one, and the address of what they wait for."""
    with contextlib.suppress(FileNotFoundError):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):
                call, *arguments = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
                if call in FUTEX:
                    yield thread, int(arguments[0], 16)


def _library() -> str:
    """The library of this process that has gloo."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return next((line.split()[-1] for line in maps if line.endswith("/libtorch_cpu.so")), "")


def _buffer(memory: int, wait: int, methods: list[int]) -> int:
    """The buffer of gloo in which a wait is, by its table of methods, which has these; 0 where it is something else."""
    for address in range(wait - wait % WORD - OBJECT_WORDS * WORD, wait, WORD):
        (table,) = _words(memory, address, 1) or (0,)
        if table and not table % WORD and set(methods) <= set(_words(memory, table, TABLE_WORDS)):
            return address
    return 0


def _words(memory: int, address: int, count: int) -> tuple[int, ...]:
    """So many words of this process's memory; none where there is no memory."""
    with contextlib.suppress(OSError, OverflowError, struct.error):
        return struct.unpack(f"{count}Q", os.pread(memory, count * WORD, address))
    return ()
