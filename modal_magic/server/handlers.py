"""The routes: each authenticated and authorized, each name checked; what changes something wants the XSRF token."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any

import msgspec
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web
from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from modal_magic.server.hub import Hub
from modal_magic.server.watched import RESTART_SECONDS, STACK_SECONDS, Watched
from modal_magic.values import SESSION_NAME
from modal_magic.view.stack import stacks_as_data

__all__ = ["routes"]

NAME = r"(?P<name>[^/]+)"
WHOLE = re.compile("[0-9]{1,18}")
RESOURCE = "modal-magic"
"""What an authorizer is asked about: to read it in GET, to write it in POST.

See jupyter_server, "Authorization in a Jupyter Server".
"""


class Handler(APIHandler):
    """What the routes share."""

    auth_resource = RESOURCE

    @property
    def hub(self) -> Hub:
        """The sessions of this server."""
        hub: Hub = self.settings["modal_magic_hub"]
        return hub

    async def session(self, name: str) -> Watched:
        """The session of this name. Raises HTTPError 400 for what is no name and 404 where there is none."""
        if not SESSION_NAME.fullmatch(name):
            raise web.HTTPError(400, "that is no name of a session")
        watched = await self.hub.find(name)
        if watched is None:
            raise web.HTTPError(404, f"there is no session {name!r}")
        return watched

    def rank(self) -> int | None:
        """The rank that is asked about, None for all. Raises HTTPError 400 for what is no rank."""
        rank = self.get_query_argument("rank", "")
        if rank and not WHOLE.fullmatch(rank):
            raise web.HTTPError(400, "rank is a whole number")
        return int(rank) if rank else None

    def reply(self, value: Any) -> None:
        """Answer with a value as JSON."""
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(msgspec.json.encode(value))


class SessionsHandler(Handler):
    """GET: every session of this user on this machine."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """All snapshots, by the names of their sessions."""
        self.reply(await self.hub.refresh())


class EventsHandler(Handler):
    """GET: a stream of changes (server-sent events). The first message holds everything."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Stream until the browser goes away."""
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        with contextlib.suppress(StreamClosedError):
            async for patch in self.hub.stream():
                line = b": alive" if patch is None else b"data: " + msgspec.json.encode(patch)
                self.write(line + b"\n\n")
                await self.flush()
                if self.request.connection is None or self._finished or self.gone:
                    return

    gone = False

    def on_connection_close(self) -> None:
        """The browser has left."""
        self.gone = True


class LogHandler(Handler):
    """GET: lines of the newest run, of `rank` or of all, after line number `after`."""

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        """The lines and how many there were in all."""
        watched = await self.session(name)
        after = self.get_query_argument("after", "0")
        if not WHOLE.fullmatch(after):
            raise web.HTTPError(400, "after is a whole number")
        lines, total = watched.log(self.rank(), int(after))
        self.reply({"lines": lines, "total": total})


class BandHandler(Handler):
    """GET: the course of `metric` over its steps: of all ranks the lowest, the mean and the highest."""

    @web.authenticated
    @authorized
    async def get(self, name: str) -> None:
        """Empty lists where no rank has reported it."""
        watched = await self.session(name)
        self.reply(await asyncio.to_thread(watched.band, self.get_query_argument("metric")))


class StacksHandler(Handler):
    """POST: where every rank is."""

    @web.authenticated
    @authorized
    async def post(self, name: str) -> None:
        """By rank: its state, where it is, its frames, and why it does not answer, if so."""
        watched = await self.session(name)
        question = watched.ask_stacks()
        await come(lambda: watched.stacks(question) is not None, STACK_SECONDS)
        stacks = watched.stacks(question) or []
        watched.forget_stacks(question)
        self.reply(stacks_as_data(stacks))


class ActionHandler(Handler):
    """POST: interrupt, restart (`rank`, or all) or stop. The gateway is asked; what comes of it is seen in the stream.

    Only of a restart is the end waited for: of ranks that were idle the stream does not tell that they are others now.
    """

    @web.authenticated
    @authorized
    async def post(self, name: str, action: str) -> None:
        """Answered with 202 once it is asked, 409 where there is no run to interrupt or no such rank."""
        watched = await self.session(name)
        done = False
        match action:
            case "interrupt":
                if not watched.interrupt():
                    raise web.HTTPError(409, "no run is in progress")
            case "restart":
                done = await self.restarted(watched)
            case "stop":
                watched.stop()
        self.set_status(202)
        self.reply({"done": done})

    async def restarted(self, watched: Watched) -> bool:
        """Have ranks started anew. Whether they are there; it may take longer than is waited for here."""
        request = watched.restart(self.rank())
        await come(lambda: watched.answer(request) is not None or bool(watched.ended), RESTART_SECONDS)
        refusal = watched.answer(request)
        watched.forget_answer(request)
        if refusal:
            raise web.HTTPError(409, refusal)
        return refusal is not None


async def come(there: Callable[[], bool], seconds: float) -> None:
    """Wait for an answer of a gateway, which comes in another thread, for so long."""
    until = asyncio.get_running_loop().time() + seconds
    while not there() and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.02)


def routes() -> list[tuple[str, type[RequestHandler]]]:
    """The routes, below the server's base URL."""
    root = "/modal-magic/api"
    return [
        (f"{root}/sessions", SessionsHandler),
        (f"{root}/events", EventsHandler),
        (f"{root}/sessions/{NAME}/log", LogHandler),
        (f"{root}/sessions/{NAME}/band", BandHandler),
        (f"{root}/sessions/{NAME}/stacks", StacksHandler),
        (f"{root}/sessions/{NAME}/(?P<action>interrupt|restart|stop)", ActionHandler),
    ]
