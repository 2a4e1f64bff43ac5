"""The routes of the server extension, on a real Jupyter server with real ranks: what they say, and whom they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.auth import Authorizer, User
from jupyter_server.base.handlers import JupyterHandler
from pytest_jupyter.jupyter_core import jp_asyncio_loop as jp_asyncio_loop
from pytest_jupyter.jupyter_server import jp_server_cleanup as jp_server_cleanup
from tornado.httpclient import HTTPClientError, HTTPResponse

from modal_magic import registry
from modal_magic.errors import RunInterrupted, SessionError
from modal_magic.links.client import ATTACH_SECONDS
from modal_magic.links.thread import LinkThread
from modal_magic.server.hub import LOOK_SECONDS, Hub, changes
from modal_magic.server.watched import Watched
from modal_magic.sessions.resources import Resources
from modal_magic.sessions.session import Session
from modal_magic.view.snapshot import RankRow, Snapshot
from tests.test_imports import loaded_by

pytest_plugins = ["pytest_jupyter.jupyter_server"]

Fetch = Callable[..., Awaitable[HTTPResponse]]
ROUTES = [
    ("GET", "sessions"),
    ("GET", "events"),
    ("GET", "sessions/served/log"),
    ("GET", "sessions/served/band"),
    ("POST", "sessions/served/stacks"),
    ("POST", "sessions/served/interrupt"),
    ("POST", "sessions/served/restart"),
    ("POST", "sessions/served/stop"),
]


@pytest.fixture
def jp_server_config() -> dict[str, Any]:
    return {"ServerApp": {"jpserver_extensions": {"modal_magic.server": True}}}


@pytest.fixture(scope="module")
def served(resources: Resources) -> Iterator[Session]:
    """A session of two ranks that the tests of this module share."""
    options = {"replicas": 2, "backend": "local", "framework": "none", "session": "served"}
    with Session(resources=resources, **options) as made:
        yield made.ready()


async def code(request: Awaitable[HTTPResponse]) -> int:
    """The status of an answer, whatever it is."""
    try:
        return (await request).code
    except HTTPClientError as error:
        return error.code


async def get(fetch: Fetch, *path: str, **params: str) -> Any:
    return json.loads((await fetch("modal-magic", "api", *path, params=params)).body)


async def post(fetch: Fetch, *path: str, **params: str) -> HTTPResponse:
    return await fetch("modal-magic", "api", *path, method="POST", body="", params=params)


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """What `look` gives, once it gives something."""
    while not (found := await look()):
        await asyncio.sleep(0.02)
    return found


# ---- whom it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_token_nothing_is_said(served: Session, jp_fetch: Fetch, method: str, path: str) -> None:
    body = "" if method == "POST" else None
    request = jp_fetch("modal-magic", "api", path, method=method, body=body, headers={"Authorization": ""})
    assert await code(request) == 403
    assert not served.closed


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_with_a_wrong_token_nothing_is_said(served: Session, jp_fetch: Fetch, method: str, path: str) -> None:
    body = "" if method == "POST" else None
    headers = {"Authorization": "token wrong"}
    assert await code(jp_fetch("modal-magic", "api", path, method=method, body=body, headers=headers)) == 403


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "POST"])
async def test_a_page_of_another_site_cannot_post(
    served: Session, jp_serverapp: Any, http_server_client: Any, jp_base_url: str, path: str
) -> None:
    """A browser that is logged in by its cookie sends that along; what such a page cannot have is the XSRF token."""
    login = await http_server_client.fetch(
        f"{jp_base_url}login?token={jp_serverapp.identity_provider.token}", follow_redirects=False, raise_error=False
    )
    headers = {"Cookie": "; ".join(cookie.split(";")[0] for cookie in login.headers.get_list("Set-Cookie"))}
    root = f"{jp_base_url}modal-magic/api"
    seen = await http_server_client.fetch(f"{root}/sessions", headers=headers)
    assert seen.code == 200, "the cookie alone is enough to look"
    assert await code(http_server_client.fetch(f"{root}/{path}", method="POST", body="", headers=headers)) == 403
    assert not served.closed


class Refuses(Authorizer):
    """Lets nobody do anything, and keeps what it was asked."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def is_authorized(self, handler: JupyterHandler, user: User, action: str, resource: str) -> bool:
        self.asked.append((action, resource))
        return False


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_what_the_authorizer_of_the_server_refuses_is_not_done(
    served: Session, jp_serverapp: Any, jp_fetch: Fetch, method: str, path: str
) -> None:
    jp_serverapp.web_app.settings["authorizer"] = Refuses(parent=jp_serverapp)
    Refuses.asked.clear()
    body = "" if method == "POST" else None
    assert await code(jp_fetch("modal-magic", "api", path, method=method, body=body)) == 403
    assert Refuses.asked == [("write" if method == "POST" else "read", "modal-magic")]
    assert not served.closed


@pytest.mark.parametrize("name", ["..", "%2e%2e", "a%2Fb", ".hidden", "a" * 65, "<script>"])
async def test_what_is_no_name_reaches_no_file(served: Session, jp_fetch: Fetch, name: str) -> None:
    assert await code(jp_fetch("modal-magic", "api", "sessions", name, "log")) in (400, 404)


async def test_an_unknown_session_is_not_found(served: Session, jp_fetch: Fetch) -> None:
    assert await code(jp_fetch("modal-magic", "api", "sessions", "nobody", "log")) == 404


async def test_an_interrupt_without_a_run_is_refused(served: Session, jp_fetch: Fetch) -> None:
    served.run("pass").wait(30)
    assert await code(post(jp_fetch, "sessions", "served", "interrupt")) == 409


# ---- what it says ----------------------------------------------------------------------------------------------------


async def test_a_run_is_seen_as_it_goes_on_and_interrupted(served: Session, jp_fetch: Fetch) -> None:
    source = "import time, modal_magic\nprint('<b>hello')\nfor i in modal_magic.progress(range(9999)): time.sleep(0.01)"
    run = served.run(source)

    async def moving() -> Any:
        shot = (await get(jp_fetch, "sessions")).get("served")
        told = shot and all(
            row["loops"] and row["loops"][0]["step"] > 5 and row["cpu"] is not None for row in shot["ranks"]
        )
        return shot if told else None

    shot = await until(moving)
    assert (shot["run"], shot["run_state"], shot["where"]) == (run.id, "running", "local, 2 ranks")
    assert [row["last_line"] for row in shot["ranks"]] == ["<b>hello"] * 2
    assert all(row["line"] == 3 and row["memory"] > 10_000_000 for row in shot["ranks"])
    log = await get(jp_fetch, "sessions", "served", "log", rank="1")
    assert [(rank, stream, text) for _, _, rank, stream, text in log["lines"]] == [(1, "stdout", "<b>hello")]
    assert log["total"] == 1

    async def at_line_3() -> Any:  # a rank that is busy may not answer in time
        stacks = json.loads((await post(jp_fetch, "sessions", "served", "stacks")).body)
        return {rank: taken["line"] for rank, taken in stacks.items()} == {"0": 3, "1": 3}

    await until(at_line_3)
    assert await get(jp_fetch, "sessions", "served", "band", metric="none") == {
        "steps": [],
        "low": [],
        "mean": [],
        "high": [],
    }
    assert (await post(jp_fetch, "sessions", "served", "interrupt")).code == 202
    assert await asyncio.to_thread(run.settled, 10)
    assert run.status == "interrupted"

    async def over() -> Any:
        return (await get(jp_fetch, "sessions"))["served"]["run_state"] == "interrupted"

    await until(over)


@pytest.mark.parametrize("end", ["interrupted", "running"])
async def test_a_run_that_began_before_anybody_watched_is_shown_with_what_it_wrote(served: Session, end: str) -> None:
    run = served.run("import time\nprint('here', flush=True)\ntime.sleep(1000)")
    while 1 not in run.ranks or not run.ranks[1].output:
        assert run.events(30)
    if end == "interrupted":
        run.interrupt()
        with pytest.raises(RunInterrupted):
            run.wait(30)
    links = LinkThread()
    watched = Watched(links, served.connection)
    try:
        watched.attach()

        async def known() -> bool:
            return watched.snapshot().run_state == end and bool(watched.log(1, 0)[0])

        await asyncio.wait_for(until(known), 20)
        assert [line[-1] for line in watched.log(1, 0)[0]] == ["here"]
    finally:
        watched.close()
        links.close()
        run.interrupt()


@pytest.fixture
def stream(
    served: Session, jp_serverapp: Any, http_server_client: Any, jp_base_url: str
) -> Iterator[asyncio.Queue[dict[str, Any]]]:
    """The messages of the stream of changes."""
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    rest = bytearray()

    def take(chunk: bytes) -> None:
        rest.extend(chunk)
        *whole, last = bytes(rest).split(b"\n\n")
        rest[:] = last
        for message in whole:
            if message.startswith(b"data: "):
                messages.put_nowait(json.loads(message[6:]))

    headers = {"Authorization": f"token {jp_serverapp.identity_provider.token}"}
    request = http_server_client.fetch(
        f"{jp_base_url}modal-magic/api/events",
        headers=headers,
        streaming_callback=take,
        request_timeout=60,
        raise_error=False,
    )
    yield messages
    request.cancel()


async def test_the_stream_begins_with_everything_and_goes_on_with_changes(
    served: Session, stream: asyncio.Queue[dict[str, Any]]
) -> None:
    first = await asyncio.wait_for(stream.get(), 20)
    while "served" not in first:
        first = await asyncio.wait_for(stream.get(), 20)
    assert len(first["served"]["ranks"]) == 2
    source = "import time, modal_magic\nfor i in range(100):\n    modal_magic.report(step=i)\n    time.sleep(0.01)"
    began = asyncio.get_running_loop().time()
    run = served.run(source, ranks=[1])
    count, steps, shown = 0, [], ""
    while True:
        message = await asyncio.wait_for(stream.get(), 20)
        count += 1
        shown = message.get("served", {}).get("run", shown)
        if shown != run.id:  # it is an earlier one
            continue
        rows = message.get("served", {}).get("ranks", {})
        steps += [loop["step"] for loop in (rows["1"]["loops"] if isinstance(rows, dict) and "1" in rows else [])]
        if message.get("served", {}).get("run_state") == "done":
            break
    assert steps == sorted(steps)
    assert steps[-1] == 99
    assert count <= 10 * (asyncio.get_running_loop().time() - began) + 2


async def test_a_server_that_watches_does_not_keep_the_session(served: Session, jp_fetch: Fetch) -> None:
    async def there() -> Any:
        return "served" in await get(jp_fetch, "sessions")

    await until(there)
    assert served.status().clients == 1


@contextlib.asynccontextmanager
async def relay(port: int) -> AsyncIterator[int]:
    """A port that leads to another one, until it is closed with all that goes through it."""
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)

    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        writers.extend((writer, back))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(through, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def test_a_session_whose_bridge_has_another_port_now_is_watched_there(served: Session, jp_fetch: Fetch) -> None:
    async def stacks() -> Any:
        with contextlib.suppress(HTTPClientError):  # it is not watched yet
            return json.loads((await post(jp_fetch, "sessions", "moved", "stacks")).body)

    elsewhere = msgspec.structs.replace(served.connection, session="moved", born=0.0)
    registry.claim("moved")
    try:
        for _ in range(2):
            async with relay(served.connection.port) as port:
                registry.publish(msgspec.structs.replace(elsewhere, port=port))
                await asyncio.wait_for(until(stacks), 20)
    finally:
        registry.forget("moved")


async def test_a_session_that_cannot_be_had_keeps_nobody_waiting(
    served: Session, runtime_folder: Path, jp_fetch: Fetch
) -> None:
    broken = runtime_folder / "broken"
    broken.mkdir()
    (broken / "connection.json").write_text("{}")
    (broken / "connection.json").chmod(0o600)

    async def there() -> Any:
        return await get(jp_fetch, "sessions")

    assert list(await until(there)) == ["served"]
    assert await code(jp_fetch("modal-magic", "api", "sessions", "broken", "log")) == 404
    shutil.rmtree(broken)


async def test_gateways_that_do_not_answer_keep_nobody_waiting(
    served: Session, runtime_folder: Path, jp_fetch: Fetch
) -> None:
    """More of them than a pool has threads: their ports take connections, and then nothing comes."""
    name_of = "a-silent-{}".format
    with contextlib.ExitStack() as stack:
        for number in range(2 * (os.cpu_count() or 1) + 8):
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            connection = msgspec.structs.replace(
                served.connection, session=name_of(number), port=listening.getsockname()[1]
            )
            registry.claim(connection.session)
            stack.callback(registry.forget, connection.session)
            registry.publish(connection)

        async def there() -> Any:
            return await get(jp_fetch, "sessions")

        assert list(await asyncio.wait_for(until(there), ATTACH_SECONDS)) == ["served"]
        async with asyncio.timeout(ATTACH_SECONDS):
            for _ in range(3):
                assert list(await there()) == ["served"]
                await asyncio.sleep(LOOK_SECONDS)


async def test_what_cannot_be_had_is_tried_after_longer_and_longer_pauses(
    runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def read(name: str) -> registry.Connection:
        tried.append(time.monotonic())
        raise SessionError("it is of another version")

    monkeypatch.setattr(registry, "names", lambda: ["old"])
    monkeypatch.setattr(registry, "read", read)
    monkeypatch.setattr("modal_magic.server.hub.AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("modal_magic.server.hub.LOOK_SECONDS", 0.0)
    hub = Hub()
    while len(tried) < 4:
        assert await hub.refresh() == {}
        await asyncio.sleep(0.001)
    await hub.close()
    pauses = [after - before for before, after in pairwise(tried)]
    assert all(pause >= 0.05 * 2**number for number, pause in enumerate(pauses)), pauses


async def test_a_rank_or_all_are_started_anew_and_the_answer_waits_for_them(served: Session, jp_fetch: Fetch) -> None:
    def pids() -> list[int]:
        return [rank.pid for rank in served.status().ranks]

    path, first = ("sessions", "served", "restart"), pids()
    assert json.loads((await post(jp_fetch, *path, rank="1")).body) == {"done": True}
    second = pids()
    assert second[0] == first[0]
    assert second[1] not in (0, first[1])
    assert await code(post(jp_fetch, *path, rank="2")) == 409
    assert await code(post(jp_fetch, *path, rank="all")) == 400
    assert pids() == second
    assert json.loads((await post(jp_fetch, *path)).body) == {"done": True}
    assert not {*pids()} & {*second, 0}


async def test_a_session_is_stopped_and_leaves_the_list(resources: Resources, jp_fetch: Fetch) -> None:
    session = Session(resources=resources, replicas=1, backend="local", framework="none", session="stopped").ready()

    async def there() -> Any:
        return "stopped" in await get(jp_fetch, "sessions")

    async def gone() -> Any:
        return not await there()

    await until(there)
    assert (await post(jp_fetch, "sessions", "stopped", "stop")).code == 202
    await until(gone)
    await asyncio.to_thread(session.stop)


# ---- without a server ------------------------------------------------------------------------------------------------


def row(rank: int, step: int) -> RankRow:
    return RankRow(rank, rank, 1, "running", float(step), None, 0, (), None, None, (), "")


def shot(steps: list[int], state: str = "ready") -> Snapshot:
    rows = tuple(row(rank, step) for rank, step in enumerate(steps))
    return Snapshot("s", "local", state, 1.0, "", "", 0, 0.0, None, None, 1, 0.0, None, None, rows)


def patched(before: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """What a browser makes of a patch."""
    after = dict(before)
    for name, change in patch.items():
        if change is None:
            del after[name]
        elif "session" in change:
            after[name] = change
        else:
            rows = change.get("ranks", {})
            ranks = [rows.get(str(number), old) for number, old in enumerate(after[name]["ranks"])]
            after[name] = {**after[name], **change, "ranks": ranks}
    return after


STEPS = st.lists(st.integers(0, 3), min_size=1, max_size=4)
SHOTS = st.dictionaries(st.sampled_from("abc"), st.builds(shot, STEPS, st.sampled_from(["ready", "running"])))


@given(st.lists(SHOTS, max_size=5))
def test_a_browser_that_applies_changes_has_what_the_server_has(course: list[dict[str, Snapshot]]) -> None:
    before: dict[str, Snapshot] = {}
    browser: dict[str, Any] = {}
    for now in course:
        browser = patched(browser, json.loads(msgspec.json.encode(changes(before, now))))
        before = now
        assert browser == json.loads(msgspec.json.encode(now))


def test_what_has_not_changed_is_not_sent() -> None:
    assert changes({"a": shot([1, 2])}, {"a": shot([1, 2])}) == {}
    patch = changes({"a": shot([1, 2])}, {"a": shot([1, 3])})
    assert list(patch["a"]["ranks"]) == ["1"]


def test_the_extension_loads_neither_torch_nor_modal_nor_ipython() -> None:
    statement = "import modal_magic.server.handlers, modal_magic.server.hub"
    assert loaded_by(statement, "torch", "modal", "IPython", "numpy", "ipykernel.zmqshell") == []
