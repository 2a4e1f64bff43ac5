"""All sessions of this user that a server watches, found by their connection files, and the changes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from modal_magic import registry
from modal_magic.errors import ModalMagicError
from modal_magic.links.thread import LinkThread
from modal_magic.server.watched import Watched
from modal_magic.view.snapshot import Snapshot, without_courses

__all__ = ["Hub", "changes"]

TURN_SECONDS = 0.1
"""A browser is told of changes so often at most."""
LOOK_SECONDS = 0.5
"""How often connection files are looked for."""
STATUS_SECONDS = 2.0
FIRST_SECONDS = 0.5
"""The first look waits so long for the sessions that it has found."""
AGAIN_SECONDS = 2.0
MOST_AGAIN_SECONDS = 60.0
"""A session that cannot be had, being of another version or not answering, is tried again after so long: at first, and
at most, for each try doubles the pause."""
ALIVE_SECONDS = 10.0
"""So often a stream with nothing to say says that it is alive, for proxies that close what is silent."""
COURSES = 64
"""Of more ranks than this the course of metrics is left out of what is streamed."""

Patch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Missed:
    """A session that could not be had: how long the pause is (seconds) and when it ends (monotonic)."""

    pause: float
    again: float


class Hub:
    """The watched sessions. It works while somebody looks, and lets go of all sessions in `close`.

    A class because links must be closed. All is called in the server's event loop.
    """

    def __init__(self) -> None:
        self._links = LinkThread()
        self._watched: dict[str, Watched] = {}
        self._attaching: dict[str, asyncio.Task[None]] = {}
        self._missed: dict[str, Missed] = {}
        self._shots: dict[str, Snapshot] = {}
        self._taken: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._looked = 0.0
        self._lock = asyncio.Lock()

    async def refresh(self) -> dict[str, Snapshot]:
        """Every session as it is now."""
        await self._look()
        now = time.monotonic()
        for name, watched in self._watched.items():
            if now - self._asked.get(name, 0.0) > STATUS_SECONDS:
                self._asked[name] = now
                watched.ask_status()
            stale = watched.running and now - self._taken.get(name, 0.0) > 1.0
            if watched.dirty or stale or name not in self._shots:
                self._taken[name] = now
                shot = watched.snapshot()
                self._shots[name] = without_courses(shot) if len(shot.ranks) > COURSES else shot
        return dict(self._shots)

    async def find(self, name: str) -> Watched | None:
        """A session; one that was just found is waited for."""
        await self.refresh()
        if name in self._attaching:
            await asyncio.wait([self._attaching[name]])
        return self._watched.get(name)

    async def stream(self) -> AsyncIterator[Patch | None]:
        """What has changed, at most ten times a second; the first is everything. None: nothing has for a while."""
        before: dict[str, Snapshot] = {}
        said, first = time.monotonic(), True
        while True:
            now = await self.refresh()
            patch = changes(before, now)
            if patch or first:
                before, said, first = now, time.monotonic(), False
                yield patch
            elif time.monotonic() - said > ALIVE_SECONDS:
                said = time.monotonic()
                yield None
            await asyncio.sleep(TURN_SECONDS)

    async def close(self) -> None:
        """Let go of all sessions; they live on."""
        if self._attaching:
            await asyncio.wait(self._attaching.values())
        for watched in self._watched.values():
            watched.close()
        self._watched.clear()
        await asyncio.to_thread(self._links.close)

    async def _look(self) -> None:
        """See which sessions there are. Only those that are new are waited for, and only where no other is watched."""
        begun = []
        async with self._lock:
            if time.monotonic() - self._looked <= LOOK_SECONDS:
                return
            names = await asyncio.to_thread(registry.names)
            for watched in [watched for watched in self._watched.values() if watched.silent]:
                await asyncio.to_thread(watched.follow)
            for name in [name for name, watched in self._watched.items() if name not in names or watched.ended]:
                self._watched.pop(name).close()
                self._shots.pop(name, None)
            for name in self._missed.keys() - names:
                del self._missed[name]
            now = self._looked = time.monotonic()
            for name in names:
                due = now >= self._missed[name].again if name in self._missed else True
                if due and name not in self._watched and name not in self._attaching:
                    self._attaching[name] = asyncio.ensure_future(self._bring(name))
                    begun.append(self._attaching[name])
        if begun and not self._watched:
            await asyncio.wait(begun, timeout=FIRST_SECONDS)

    async def _bring(self, name: str) -> None:
        """Attach to a session, in a thread of its own: those that do not answer must not use up a pool of threads."""
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"modal_magic attach {name}")
        try:
            self._watched[name] = await asyncio.get_running_loop().run_in_executor(thread, self._attach, name)
            self._missed.pop(name, None)
        except (ModalMagicError, OSError):
            pause = min(2 * self._missed[name].pause, MOST_AGAIN_SECONDS) if name in self._missed else AGAIN_SECONDS
            self._missed[name] = Missed(pause, time.monotonic() + pause)
        finally:
            thread.shutdown(wait=False)
            del self._attaching[name]

    def _attach(self, name: str) -> Watched:
        watched = Watched(self._links, registry.read(name))
        try:
            watched.attach()
        except ModalMagicError:
            watched.close()
            raise
        return watched


def changes(before: dict[str, Snapshot], now: dict[str, Snapshot]) -> Patch:
    """What of each session has changed: its fields that did, and of its ranks those that did, by number. None: gone.

    The time alone is no change; it comes with every patch.
    """
    patch: Patch = dict.fromkeys(before.keys() - now.keys())
    for name, shot in now.items():
        old = before.get(name)
        if old is shot:
            continue
        if old is None or len(old.ranks) != len(shot.ranks):
            patch[name] = msgspec.to_builtins(shot)
            continue
        fields = {
            key: msgspec.to_builtins(value)
            for key in Snapshot.__struct_fields__
            if key not in ("ranks", "now") and (value := getattr(shot, key)) != getattr(old, key)
        }
        rows = {
            str(row.rank): msgspec.to_builtins(row)
            for row, last in zip(shot.ranks, old.ranks, strict=True)
            if row != last
        }
        if fields or rows:
            patch[name] = {**fields, "now": shot.now, **({"ranks": rows} if rows else {})}
    return patch
