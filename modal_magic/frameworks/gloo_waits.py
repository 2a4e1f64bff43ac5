"""Waits in gloo that go on though their connection is gone: found, and called off (Linux, on x86-64 and ARM).

Where a peer dies while a message to it is half sent, gloo (torch 2.13) closes the connection, but does not tell the
thread that waits for that message; and who waits for a peer to connect has no connection yet. Such a thread sits there
until the group's time is over, after half an hour. Nothing that can be done to a socket frees it, and no function of
torch does. gloo itself can end such a wait, given the object that is waited for.

What is no such object must not be taken for one, for the process would crash: memory near an address that a thread
waits at may hold what gloo has long let go of. So the thread's stack must show that it is in a wait of that class.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["GlooWaits"]

FUTEX = ("202", "98")
"""The number of the system call in which a thread waits, on x86-64 and on ARM."""
LIBRARY = "/libtorch_cpu.so"
NAMESPACE = "N4gloo9transport3tcp"
WAITS = {
    "13UnboundBuffer8waitSend": ("13UnboundBuffer", "13abortWaitSendEv"),
    "13UnboundBuffer8waitRecv": ("13UnboundBuffer", "13abortWaitRecvEv"),
    "4Pair": ("4Pair", "5closeEv"),
}
"""The methods in which a thread waits, as their names in `NAMESPACE` begin for the linker: whose they are, and what
ends the wait. All that waits in a pair waits for its peer to connect."""
APART_SECONDS = 0.02, 0.5
"""Looks closer to each other or further apart tell nothing: short waits are still there, or there again, for a thread
may wait at one address again and again, as memory is used again."""
WORD, OBJECT_WORDS, STACK_WORDS = 8, 128, 128
"""The bytes of a word; how far an object reaches, and a stack down to the method that waits."""
TABLE_OFFSET = 2 * WORD
"""What an object begins with is the address of its class's table of methods, behind so many bytes."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A thread that waits for another one: its number, the address that it waits at, and where its stack is."""

    thread: str
    address: int
    stack: int


class Symbol(ctypes.Structure):
    """What dladdr(3) tells of an address: `Dl_info`."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


@dataclass(slots=True)
class GlooWaits:
    """Which waits there were `at` the look before. What lasts from one to the next is stuck."""

    seen: frozenset[Wait] = frozenset()
    at: float = 0.0
    looking: threading.Lock = field(default_factory=threading.Lock)

    def call_off(self) -> None:
        """End the waits that were there at the last call too. The connections of the groups must have been cut."""
        if not self.looking.acquire(blocking=False):  # several threads cut what one waits for
            return
        try:
            closest, furthest = APART_SECONDS
            now = time.monotonic()
            if now - self.at < closest:
                return
            waits = frozenset(_futex_waits())
            stuck = waits & self.seen if now - self.at < furthest else frozenset()
            self.seen, self.at = waits, now
            if stuck:
                with contextlib.suppress(OSError, AttributeError, ValueError):  # another system, or another torch
                    _end(stuck)
        finally:
            self.looking.release()


def _futex_waits() -> Iterator[Wait]:
    """The threads that wait for another one."""
    with contextlib.suppress(FileNotFoundError):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError):
                call, *rest = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
                if call in FUTEX:
                    yield Wait(thread, int(rest[0], 16), int(rest[-2], 16))


def _end(waits: frozenset[Wait]) -> None:
    """End those that are waits in gloo."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    code = [line.split() for line in maps if line.endswith(LIBRARY) and line.split()[1].startswith("r-x")]
    spans = [range(*(int(end, 16) for end in line[0].split("-"))) for line in code]
    library = ctypes.CDLL(code[0][-1] if code else "")
    with open("/proc/self/mem", "rb", buffering=0) as memory:  # a wrong address is an error there, and not the end
        for wait in waits:
            for name in _calls(_words(memory.fileno(), wait.stack, STACK_WORDS), spans):
                whose = next((end for begins, end in WAITS.items() if name.startswith(f"_Z{NAMESPACE}{begins}")), None)
                if whose is not None:
                    owner, ending = whose
                    table = ctypes.addressof(ctypes.c_char.in_dll(library, f"_ZTV{NAMESPACE}{owner}E")) + TABLE_OFFSET
                    if waited_for := _object(memory.fileno(), wait.address, table):
                        library[f"_Z{NAMESPACE}{owner}{ending}"](ctypes.c_void_p(waited_for))
                    break


def _calls(stack: tuple[int, ...], spans: list[range]) -> Iterator[str]:
    """The functions whose code, in one of these spans, a stack leads back to, the innermost first."""
    look_up, symbol = ctypes.CDLL(None).dladdr, Symbol()
    for word in stack:
        if any(word in span for span in spans) and look_up(ctypes.c_void_p(word), ctypes.byref(symbol)) and symbol.name:
            yield symbol.name.decode()


def _object(memory: int, inside: int, table: int) -> int:
    """The address of the object with this table of methods that an address lies in; 0 where there is none."""
    nearest = inside - inside % WORD
    candidates = range(nearest, nearest - OBJECT_WORDS * WORD, -WORD)
    return next((address for address in candidates if _words(memory, address, 1) == (table,)), 0)


def _words(memory: int, address: int, count: int) -> tuple[int, ...]:
    """So many words at an address; fewer where memory ends, none where there is none."""
    with contextlib.suppress(OSError, OverflowError):
        data = os.pread(memory, count * WORD, address)
        return struct.unpack(f"{len(data) // WORD}Q", data[: len(data) // WORD * WORD])
    return ()
