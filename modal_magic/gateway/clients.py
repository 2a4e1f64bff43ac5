"""The clients of a gateway: what each was sent and has shown, and which of its requests were taken. No socket."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

import msgspec

from modal_magic import protocol as p
from modal_magic.gateway.door import Door
from modal_magic.gateway.known_runs import KnownRuns, Replay
from modal_magic.gateway.log import EventLog
from modal_magic.live import LiveTable

__all__ = ["Clients"]

BATCH_BYTES = 1024 * 1024
"""Records go to a client in batches of about this size, so that a small message never waits behind a large one."""
TURN_BATCHES = 8
"""A client that is far behind is sent so many batches, then it is the turn of others."""
FORGET_SECONDS = 2 * p.SILENCE_SECONDS
"""A client that was silent for so long no longer counts as attached."""
AWAY = 1000
"""Of so many clients that are away it is remembered what they were sent and which of their requests were taken."""
RETRY_SECONDS = 0.01
"""What a client could not take is sent again after so long."""
Batches = dict[int, tuple[int, list[bytes]]]
"""Batches by the number after which they begin: the number that they reach up to, and their frames."""


@dataclass(slots=True)
class KnownClient:
    """One client. `outbox` has replies that go out once the records up to their number have.

    A fresh one is told all bars and metrics once it has its records, for they are of runs that it must know.
    """

    first: int
    sent: int
    heard: float
    taken: int = 0
    replay: Replay | None = None
    outbox: deque[tuple[int, bytes]] = field(default_factory=deque)
    answers: deque[bytes] = field(default_factory=lambda: deque(maxlen=16))
    reachable: bool = True
    watches: bool = False
    fresh: bool = True


class Clients:
    """All clients of a session. Times are in seconds.

    Whatever the link does to messages, each numbered request is taken once and in order, and each client is sent every
    record: the clients' end of this is `conversation`.
    """

    def __init__(self, door: Door, log: EventLog, live: LiveTable) -> None:
        self.runs = KnownRuns(log)
        self._door, self._log, self._live = door, log, live
        self._present: dict[bytes, KnownClient] = {}
        self._away: dict[bytes, KnownClient] = {}
        self._leaving = False
        self._met = False

    def __len__(self) -> int:
        """How many are attached and keep the session: those that only watch do not."""
        return sum(not client.watches for client in self._present.values())

    def present(self, identity: bytes) -> KnownClient | None:
        """An attached client."""
        return self._present.get(identity)

    @property
    def reachable(self) -> int:
        """How many of these were there when the gateway last spoke to them."""
        return sum(client.reachable and not client.watches for client in self._present.values())

    # -- what comes in

    def take(self, identity: bytes, frames: list[bytes], now: float) -> p.Request | None:
        """The request that a message holds, unless it was taken before, is not yet its turn, or asks for nothing.

        Raises one of `protocol.NOISE` for what is no message.
        """
        if len(frames) not in (1, 2):
            return None
        request = p.decode_request(frames[-1])
        if isinstance(request, p.Attach):
            return request
        client = self._present.get(identity)
        if client is None:
            self._door.send(identity, p.encode(p.Refused("", "attach first")))
            return None
        client.heard = now
        if isinstance(request, p.Numbered):
            if len(frames) != 2 or p.number_of(frames[0]) != client.taken + 1:
                return None
            client.taken += 1
            if isinstance(request, p.Run):
                return request if self.runs.add(identity, request.task) else None
            return request
        if isinstance(request, p.Shown):
            self.runs.shown(request)
        elif isinstance(request, p.Detach):
            del self._present[identity]
            return request
        return None

    def attach(
        self, identity: bytes, request: p.Attach, welcome: p.Attached, going: Collection[str], now: float
    ) -> None:
        """Take a client in, or back in, and send it what it lacks. `going` are the runs that are not over."""
        newest = self._log.newest
        runs: list[p.RunKnown] = []
        if request.since is None:
            runs = self.runs.to_tell(lambda owner: owner != identity and self._is_there(owner), going)
        client = self._present.pop(identity, None) or self._away.pop(identity, None)
        if client is None:
            # What was said while nobody was there to hear it, as of nodes that came first, is for whoever comes first.
            is_first = not (self._met or request.watches)
            shown = self.runs.to_watch(runs) if request.watches else {known.run: known.shown for known in runs}
            first = 0 if is_first else self.runs.since(shown)
            client = KnownClient(first, first, now)
            if request.since is None:
                client.replay = Replay(0 if is_first else newest, shown)
        self._met = self._met or not request.watches
        client.heard, client.reachable = now, True
        client.watches, client.fresh = request.watches, True
        client.taken = max(client.taken, request.taken)
        client.sent = client.first if request.since is None else max(0, min(request.since, newest))
        client.outbox = deque((client.sent, answer) for answer in client.answers)
        self._present[identity] = client
        told = msgspec.structs.replace(welcome, sequence=client.sent, taken=client.taken, runs=runs)
        client.outbox.appendleft((client.sent, p.encode(told)))

    def _is_there(self, identity: bytes) -> bool:
        client = self._present.get(identity)
        return client is not None and client.reachable

    # -- what goes out

    def reply(self, identity: bytes, reply: p.Reply) -> None:
        """Answer a client; what was recorded before the answer comes before it."""
        client = self._present.get(identity) or self._away.get(identity)
        if client is None:
            self._door.send(identity, p.encode(reply))
            return
        data = p.encode(reply)
        if isinstance(reply, p.Done | p.Refused):
            client.answers.append(data)
        client.outbox.append((self._log.newest, data))

    def broadcast(self) -> float | None:
        """Bring every client up to date. None when that is done, else in how many seconds there is more to do."""
        shared: Batches = {}
        waits = [self._send(identity, client, shared) for identity, client in self._present.items()]
        return min((seconds for seconds in waits if seconds is not None), default=None)

    def _send(self, identity: bytes, client: KnownClient, shared: Batches) -> float | None:
        """Send a client what it lacks, as far as it takes it; the answer is that of `broadcast`."""
        if not client.reachable and not self._leaving:
            return None  # the next beat sees whether it is there again
        for _ in range(TURN_BATCHES):
            while client.outbox and client.outbox[0][0] <= client.sent:
                if not self._door.send(identity, client.outbox[0][1]):
                    return RETRY_SECONDS
                client.outbox.popleft()
            if client.sent >= self._log.newest:
                if client.fresh:
                    client.fresh = not self._door.send(identity, p.encode(p.Live(self._live.all())))
                return None
            after, frames = self._batch(client, shared)
            if not self._door.send(identity, *frames):
                return RETRY_SECONDS
            client.sent = after
        return 0.0

    def tell_live(self) -> None:
        """Tell everyone what has changed of bars and metrics; one that is behind is told all of them later."""
        news = p.encode(p.Live(self._live.news()))
        for identity, client in self._present.items():
            ready = client.reachable and client.sent >= self._log.newest and not client.fresh
            client.fresh = not (ready and self._door.send(identity, news))

    def _batch(self, client: KnownClient, shared: Batches) -> tuple[int, list[bytes]]:
        """The next batch for a client; those that are at the same number share it."""
        replay = client.replay if client.replay is not None and client.sent < client.replay.until else None
        if replay is None and client.sent in shared:
            return shared[client.sent]
        records, after = self._log.since(client.sent, BATCH_BYTES)
        if replay is not None:
            records = [record for record in records if replay.wants(p.decode_record(record))]
        found = after, p.batch(client.sent, after, records)
        if replay is None:
            shared[client.sent] = found
        return found

    def beat(self, now: float, late: float) -> bool:
        """Tell everyone that the gateway lives, and let go of those that are silent. Whether there were any.

        `late` is for how long the gateway could not listen: nobody was silent in that time.
        """
        gone = []
        for identity, client in self._present.items():
            client.heard += late
            if now - client.heard > FORGET_SECONDS:
                gone.append(identity)
            else:
                client.reachable = self._door.send(identity, p.encode(p.Tally(client.sent, client.taken)))
        for identity in gone:
            self._away[identity] = self._present.pop(identity)
        for oldest in list(self._away)[: max(0, len(self._away) - AWAY)]:
            del self._away[oldest]
        return bool(gone)

    def farewell(self, reason: str) -> None:
        """Say goodbye to everyone, behind all that they lack; `broadcast` sends it. Said once."""
        if not self._leaving:
            self._leaving = True
            for client in self._present.values():
                client.outbox.append((self._log.newest, p.encode(p.Closed(reason))))

    def told(self, now: float) -> bool:
        """Whether everybody who listens has all that there is for him."""
        listening = [client for client in self._present.values() if now - client.heard < p.SILENCE_SECONDS]
        return all(client.sent >= self._log.newest and not client.outbox for client in listening)
