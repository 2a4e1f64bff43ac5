"""A client's end of the conversation with a gateway, pure: nothing is lost, doubled or out of order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from modal_magic import protocol as p

__all__ = ["Conversation"]

REPEAT_SECONDS = 0.5
"""How long a request may go untaken, or a gap in the records unfilled, before it is said again."""

ANSWER_SECONDS = 3.0
"""A request that is not answered for so long makes the client attach again: the answer may have been lost."""

READINGS = p.AskStatus | p.AskLog | p.AskStack
"""Requests that change nothing: these are asked again. Of the others the gateway says the answer again."""


@dataclass(slots=True)
class Conversation:
    """What a client has said and heard. The time is given in seconds; `transmit` sends the frames of one message.

    Requests are numbered and kept until the gateway's tally says that they were taken. Records are numbered too, and
    each batch says where it begins: after a gap the client attaches again, from what it has.
    """

    client: str
    transmit: Callable[[list[bytes]], None]
    on_record: Callable[[p.Record], None]
    on_reply: Callable[[p.Reply], None]
    watches: bool = False
    seen: int | None = None
    asked: int = 0
    taken: int = 0
    untaken: dict[int, list[bytes]] = field(default_factory=dict)
    unanswered: dict[str, p.Numbered] = field(default_factory=dict)
    asked_at: float = 0.0
    attached_at: float = 0.0
    repeated_at: float = 0.0

    def attach(self, now: float) -> None:
        """Say the first word, or say it again."""
        self.attached_at = now
        self.transmit([p.encode(p.Attach(p.VERSION, self.client, self.seen, self.taken, self.watches))])

    def ask(self, request: p.Numbered, now: float) -> None:
        """Have a request carried out once."""
        if isinstance(request, p.Run):
            self.unanswered[request.task.run] = request
        elif isinstance(request, READINGS | p.Restart | p.SetLimits):
            self.unanswered[request.request] = request
        if not self.untaken:
            self.repeated_at = now
        self.asked += 1
        self.asked_at = now
        self.untaken[self.asked] = frames = p.numbered(self.asked, request)
        self.transmit(frames)

    def forget(self, request: str) -> None:
        """Nobody waits any more for the answer to this request."""
        self.unanswered.pop(request, None)

    def take(self, frames: list[bytes], now: float) -> None:
        """Take a message of the gateway. Raises one of `protocol.NOISE` for what is none."""
        if len(frames) == 2:
            self._take_records(*p.bounds_of(frames[0]), frames[1], now)
            return
        reply = p.decode_reply(frames[0])
        match reply:
            case p.Attached():
                if self.seen is None:
                    self.seen = reply.sequence
                    self.on_reply(reply)
                self._taken(reply.taken)
                for again in self.untaken.values():
                    self.transmit(again)
                self._ask_again(now)
            case p.Tally(sent=sent, taken=taken):
                self._taken(taken)
                if self.untaken and now - self.repeated_at > REPEAT_SECONDS:
                    self.repeated_at = now
                    for again in self.untaken.values():
                        self.transmit(again)
                if self.seen is None or sent > self.seen:
                    self._attach_again(now)
                elif self.unanswered and now - max(self.asked_at, self.attached_at) > ANSWER_SECONDS:
                    self.attach(now)
            case p.Refused(request=""):  # the gateway has forgotten us: a kernel can be busy in C for long
                self._attach_again(now)
            case p.Status() | p.LogPage() | p.Stacks() | p.Done() | p.Refused():
                request = reply.request
                self.unanswered.pop(request, None)
                self.on_reply(reply)
            case _:
                self.on_reply(reply)

    def _take_records(self, after: int, last: int, data: bytes, now: float) -> None:
        if self.seen is None or after > self.seen:
            self._attach_again(now)
            return
        for record in p.decode_records(data):
            if record.sequence > self.seen:
                self.seen = record.sequence
                self.unanswered.pop(getattr(record.event, "run", ""), None)
                self.on_record(record)
        self.seen = max(self.seen, last)

    def _attach_again(self, now: float) -> None:
        if now - self.attached_at > REPEAT_SECONDS:
            self.attach(now)

    def _taken(self, number: int) -> None:
        self.taken = max(self.taken, number)
        for done in [asked for asked in self.untaken if asked <= self.taken]:
            del self.untaken[done]

    def _ask_again(self, now: float) -> None:
        """Readings that were taken and not answered are asked anew: their answer may have been lost with the link."""
        waiting = {frames[1] for frames in self.untaken.values()}
        for request in list(self.unanswered.values()):
            if isinstance(request, READINGS) and p.encode(request) not in waiting:
                self.ask(request, now)
