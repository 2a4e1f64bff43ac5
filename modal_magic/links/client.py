"""A client of a session: its link to the gateway, and what its silence means."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable

from modal_magic import protocol as p
from modal_magic import registry
from modal_magic.errors import GatewayBusy, GatewayLost, SessionError, UsageError
from modal_magic.links.conversation import Conversation
from modal_magic.links.link import Keys, endpoint
from modal_magic.links.thread import LinkThread

__all__ = ["Client"]

ATTACH_SECONDS = 5.0
"""How long a gateway has to answer the first word."""


class Client:
    """Attached to a gateway until one of the two lets go. All `on_…` are called in the thread of the links.

    `on_end` is told once why nothing comes any more. `on_silence` is told when a gateway that is not known to be gone
    has fallen silent, and when it speaks again: of one on another machine, silence may be the network's. `on_message`
    is called when all that a message held has been told: one message may have many records. One that only `watches`
    does not keep the session: its lease runs on.
    """

    def __init__(
        self,
        links: LinkThread,
        connection: registry.Connection,
        on_record: Callable[[p.Record], None],
        on_reply: Callable[[p.Reply], None],
        on_silence: Callable[[bool], None],
        on_end: Callable[[SessionError], None],
        watches: bool = False,
        on_message: Callable[[], None] = lambda: None,
    ) -> None:
        self.session = connection.session
        self.silent = False
        self._links, self._connection = links, connection
        self._on_reply, self._on_silence, self._on_end, self._on_message = on_reply, on_silence, on_end, on_message
        self._welcome = threading.Event()
        self._refusal = ""
        name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._conversation = Conversation(
            name, lambda frames: links.transmit(self._link, frames), on_record, self._replied, watches
        )
        self._link = links.open(
            connection.host,
            connection.port,
            connection.gateway_key,
            Keys(connection.public_key, connection.secret_key),
            name.encode(),
            self._take,
            self._heard_nothing,
            self._failed,
        )

    def attach(self) -> None:
        """Wait for the gateway's welcome.

        Raises GatewayLost where its process is gone, GatewayBusy where it does not answer, and SessionError where it
        will not have this client.
        """
        self._links.call(self._link, lambda: self._conversation.attach(time.monotonic()))
        name, until = self._connection.session, time.monotonic() + ATTACH_SECONDS
        while not self._welcome.wait(0.5):
            if registry.gateway_lives(self._connection) is False:
                told = "so what was left of the session is removed"
                if registry.has_left_log(name):
                    told = f"but not its log: %modal_logs --session {name}"
                raise GatewayLost(f"the gateway of session {name!r} is gone, {told}")
            if time.monotonic() > until:
                there = "end that process"
                if not self._connection.born:
                    there = f"give the session up: %modal_stop {name}"
                raise GatewayBusy(f"{self.silence()}: try again, or {there}")
        if self._refusal:
            raise SessionError(self._refusal)

    def ask(self, request: p.Numbered) -> None:
        """Have a request carried out once. Raises UsageError for one that its gateway could not read.

        The gateway takes requests in turn: it would wait for that one, and take none that follows.
        """
        try:
            p.decode_request(p.encode(request))
        except (TypeError, ValueError, OverflowError, *p.NOISE) as error:
            raise UsageError(f"the session cannot be asked for that: {error}") from None
        self._links.call(self._link, lambda: self._conversation.ask(request, time.monotonic()))

    def forget(self, request: str) -> None:
        """Nobody waits any more for the answer to this request."""
        self._links.call(self._link, lambda: self._conversation.forget(request))

    def later(self, job: Callable[[], None]) -> None:
        """Have something done in the loop's thread."""
        self._links.call(self._link, job)

    def mention(self, message: p.Shown) -> None:
        """Say what need not arrive, and not at once: it goes out with the next word, or the next beat."""
        self._links.call(self._link, lambda: self._links.transmit(self._link, [p.encode(message)]), soon=False)

    def move(self, connection: registry.Connection) -> None:
        """The gateway is reached elsewhere from now on. What was on its way is said again."""
        before, self._connection = self._connection, connection
        ends = endpoint(before.host, before.port), endpoint(connection.host, connection.port)
        self._links.call(self._link, lambda: self._links.move(self._link, *ends))

    def close(self, last: p.Message | None = None) -> None:
        """Close the link, after a last word."""
        self._links.shut(self._link, last)

    def silence(self) -> str:
        """The words for a gateway that does not answer and is not known to be gone."""
        name, pid = self._connection.session, self._connection.pid
        if not self._connection.born:
            return f"the gateway of session {name!r} cannot be reached"
        return f"the gateway of session {name!r} does not answer, though its process {pid} is there"

    # -- called in the thread of the links

    def _take(self, frames: list[bytes]) -> None:
        self._conversation.take(frames, time.monotonic())
        self._on_message()

    def _replied(self, reply: p.Reply) -> None:
        if isinstance(reply, p.Attached):
            self._on_reply(reply)
            self._welcome.set()
        elif isinstance(reply, p.Refused) and reply.request == self._conversation.client:
            self._refusal = reply.reason
            self._welcome.set()
        else:
            self._on_reply(reply)

    def _heard_nothing(self, seconds: float) -> None:
        if not seconds:  # it speaks again
            if self.silent:
                self.silent = False
                self._on_silence(False)
            return
        if not self._welcome.is_set():
            return
        if registry.gateway_lives(self._connection) is False:
            self._on_end(
                GatewayLost(
                    f"the gateway of session {self._connection.session!r} is gone: its ranks end by themselves, and "
                    "their variables are lost"
                )
            )
        elif not self.silent:
            self.silent = True
            self._on_silence(True)

    def _failed(self, error: Exception) -> None:
        name = self._connection.session
        self._refusal = (
            f"this kernel has let go of session {name!r}: it could not go on with a message of its gateway "
            f"({type(error).__name__}: {error}). The session itself goes on: %modal_attach {name}"
        )
        self._on_end(SessionError(self._refusal))
        self._welcome.set()
