"""Waits in gloo that go on though their connection is gone: found, and called off (Linux, on x86-64 and ARM).

Where a peer dies while a message to it is half sent, gloo (torch 2.13) closes the connection, but does not tell the
thread that waits for that message; and who waits for a peer to connect has no connection yet. Such a thread sits there
until the group's time is over, after half an hour. Nothing that can be done to a socket frees it, and no function of
torch does. gloo itself can end such a wait, given the object that is waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GlooWaits"]

FUTEX = ("202", "98")
"""The number of the system call in which a thread waits, on x86-64 and on ARM."""
ENDINGS = (
    ("13UnboundBuffer13abortWaitSendEv", "13UnboundBuffer13abortWaitRecvEv"),
    ("4Pair5closeEv",),
)
"""The methods that end a wait in an object of each class, as the linker names them in `NAMESPACE`.

They are virtual, so the first word of such an object leads to a table that has them.
"""
NAMESPACE = "_ZN4gloo9transport3tcp"
APART_SECONDS = 0.5
"""Looks further apart tell nothing: a thread may wait at one address again and again, as memory is used again."""
WORD, OBJECT_WORDS, TABLE_WORDS = 8, 128, 24
"""The bytes of a word; within how many an object has what is waited at, and its table the methods."""
HIGHEST = 1 << 63
"""No code is at such an address."""

Methods = dict[int, Callable[[ctypes.c_void_p], object]]
"""The methods that end waits in one class, by their addresses."""


@dataclass(slots=True)
class GlooWaits:
    """Which waits there were `at` the look before: (thread, address). What lasts from one to the next is stuck."""

    seen: frozenset[tuple[str, int]] = frozenset()
    at: float = 0.0

    def call_off(self) -> None:
        """End the waits that were there at the last call too. The connections of the groups must have been cut."""
        now, waits = time.monotonic(), frozenset(_futex_waits())
        stuck = waits & self.seen if now - self.at < APART_SECONDS else frozenset()
        self.seen, self.at = waits, now
        if stuck:
            with contextlib.suppress(OSError, AttributeError):  # another system, or another torch
                for address, methods in _objects({wait for _, wait in stuck}, _endings()).items():
                    for method in methods.values():
                        method(ctypes.c_void_p(address))


def _futex_waits() -> Iterator[tuple[str, int]]:
    """The threads that wait for another one, and the address that they wait at."""
    with contextlib.suppress(FileNotFoundError):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):
                call, *arguments = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
                if call in FUTEX:
                    yield thread, int(arguments[0], 16)


def _endings() -> list[Methods]:
    """The methods of the library of this process that has gloo, for each class."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    library = ctypes.CDLL(next((line.split()[-1] for line in maps if line.endswith("/libtorch_cpu.so")), ""))
    return [
        {ctypes.cast(method, ctypes.c_void_p).value or 0: method for method in methods}
        for methods in ([library[NAMESPACE + name] for name in names] for names in ENDINGS)
    ]


def _objects(waits: set[int], classes: list[Methods]) -> dict[int, Methods]:
    """The objects of these classes that threads wait in, by their addresses, each with the methods of its class."""
    found = {}
    with open("/proc/self/mem", "rb", buffering=0) as memory:  # a wrong address is an error there, and not the end
        for wait in waits:
            nearest = wait - wait % WORD
            for address in range(nearest, nearest - OBJECT_WORDS * WORD, -WORD):
                table = next(iter(_words(memory.fileno(), address, 1)), 0)
                words = _words(memory.fileno(), table, TABLE_WORDS) if table % WORD == 0 else ()
                entries = set(itertools.takewhile(lambda word: 0 < word < HIGHEST, words))  # till another table begins
                methods = next((methods for methods in classes if methods.keys() <= entries), None)
                if methods is not None:
                    found[address] = methods
                    break
    return found


def _words(memory: int, address: int, count: int) -> tuple[int, ...]:
    """So many words at an address; none where there is no memory."""
    with contextlib.suppress(OSError, OverflowError, struct.error):
        return struct.unpack(f"{count}Q", os.pread(memory, count * WORD, address))
    return ()
