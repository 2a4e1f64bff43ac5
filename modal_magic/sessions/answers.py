"""Requests that are answered, and those who wait for the answers: in any thread, and for a bounded time."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from modal_magic import protocol as p
from modal_magic.errors import GatewayBusy, SessionError, UsageError
from modal_magic.links.client import Client
from modal_magic.waits import result_of

__all__ = ["Answer", "Answers"]

ANSWER_SECONDS = 30.0
"""How long a request waits for its answer."""

Answer = TypeVar("Answer", p.Status, p.LogPage, p.Stacks, p.Done)


class Answers:
    """The answers that a client still owes to those who asked, by the ids of their requests."""

    def __init__(self) -> None:
        self._owed: dict[str, Future[Any]] = {}
        self._error: SessionError | None = None

    def ask(self, client: Client, make: Callable[..., p.Numbered], expected: type[Answer], *rest: Any) -> Answer:
        """Ask, and wait for the answer.

        Raises UsageError where it is refused, GatewayBusy where the gateway does not answer, and what `fail` was told.
        """
        name = uuid.uuid4().hex[:12]
        answer: Future[Answer] = Future()
        self._owed[name] = answer
        try:
            if self._error is not None:  # told just before somebody was owed this answer
                raise self._error
            client.ask(make(name, *rest))
            until = time.monotonic() + ANSWER_SECONDS
            while time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    return result_of(answer, 1.0)
                if client.silent:
                    raise GatewayBusy(f"{client.silence()}. What was asked is done once it does")
            raise GatewayBusy(f"session {client.session!r} has not answered for {ANSWER_SECONDS:g} s")
        finally:
            self._owed.pop(name, None)
            client.forget(name)

    def take(self, reply: p.Status | p.LogPage | p.Stacks | p.Done) -> None:
        """Give an answer to who waits for it. It may be said twice."""
        if (answer := self._owed.pop(reply.request, None)) is not None:
            answer.set_result(reply)

    def refuse(self, request: str, reason: str) -> None:
        """The gateway will not do what was asked."""
        if (answer := self._owed.pop(request, None)) is not None:
            answer.set_exception(UsageError(reason))

    def fail(self, error: SessionError) -> None:
        """No answer will come any more."""
        self._error = error
        for name in list(self._owed):
            if (answer := self._owed.pop(name, None)) is not None:
                answer.set_exception(error)
