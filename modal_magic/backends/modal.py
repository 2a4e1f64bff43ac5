"""The Modal backend: each node is a container, and so is the gateway; all are calls of a deployed app.

Modal's client blocks, and warns where an event loop runs, as in a kernel: whatever talks to it runs in a thread.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import msgspec

from modal_magic.backends import bridges
from modal_magic.backends.base import Deployed, Plan, Reached
from modal_magic.backends.specifications import SessionKeys, make_session_keys, specifications
from modal_magic.errors import SessionError
from modal_magic.protocol import Stage
from modal_magic.waits import result_of

if TYPE_CHECKING:
    from modal_magic.backends.modal_meeting import Ticket

__all__ = ["ModalBackend"]

Result = TypeVar("Result")

TIDY_SECONDS = 5.0
"""How long an interrupt waits for what it interrupts: an image is built for minutes."""
TUNNEL_SECONDS = 5.0
"""How long a tunnel has to be reached, before the queue is taken."""
ANSWER_SECONDS = 20.0
"""How long Modal has to answer what is asked at the end of a session, beyond the time that containers have to end."""
BRIDGE_SECONDS = 5.0
"""How long a bridge has to end when its session is over."""


@dataclass(frozen=True, slots=True)
class Started:
    """What a session has: the key of its meeting, its calls by their ids, the gateway's first, and its bridge.

    Of one that another kernel has started there is no more than the bridge that this one has started again. `watcher`
    sees to restores, until it is told that the session is `done`.
    """

    key: str
    calls: list[str]
    bridge: subprocess.Popen[bytes] | None = None
    watcher: threading.Thread | None = None
    done: threading.Event = field(default_factory=threading.Event)


class ModalBackend:
    """Makes sessions of containers on Modal. It holds nothing that must be closed."""

    name = "modal"

    def __init__(self) -> None:
        self._started: dict[str, Started] = {}

    def prepare(self) -> None:
        """See `Backend`: nothing that costs money is started before it is asked for."""

    def start(self, plan: Plan) -> Reached:
        """See `Backend`."""
        abandoned = threading.Event()

        def work() -> Reached:
            reached, self._started[plan.session] = _start(plan, abandoned)
            if abandoned.is_set():  # before it was noted down, perhaps: then nobody else has found it
                _give_up(self._started.pop(plan.session, None))
            return reached

        try:
            return _in_thread(work, abandoned)
        except BaseException:  # also an interrupt when all was up already
            _in_thread(lambda: _give_up(self._started.pop(plan.session, None)))
            raise

    def finish(self, session: str, seconds: float, meeting: str = "") -> bool:
        """See `Backend`. What has not ended by itself is cancelled, and what Modal's own list still has is stopped."""
        started = self._started.pop(session, None)
        if started is not None or meeting:
            try:
                _in_thread(lambda: _end(started, meeting, seconds), seconds=2 * seconds + ANSWER_SECONDS)
            except TimeoutError:
                if started is not None:
                    _end_bridge(started)
                raise _unknown("it has not answered") from None
        return True

    def rejoin(self, session: str) -> str:
        """See `Backend`. A session that goes through a queue has a bridge on this machine."""
        bridge = bridges.start_again(session)
        if bridge is None:
            return ""
        started = self._started.get(session, Started("", []))
        if started.bridge is not None:
            started.bridge.poll()  # it is not there any more
        self._started[session] = replace(started, bridge=bridge)
        return f"the bridge to the gateway of session {session!r} was lost: another was started in its place"

    def apps(self, remove_idle: bool) -> list[Deployed]:
        """See `Backend`."""
        try:
            return _in_thread(lambda: _apps(remove_idle), seconds=ANSWER_SECONDS)
        except TimeoutError:
            raise SessionError(f"Modal has not answered for {ANSWER_SECONDS:g} s") from None

    def close(self) -> None:
        """See `Backend`."""


def _in_thread(
    work: Callable[[], Result], abandoned: threading.Event | None = None, seconds: float | None = None
) -> Result:
    """Do something in a thread and wait for it, `seconds` at most. Raises TimeoutError after that; it goes on there.

    An interrupt sets `abandoned` and gives the work a moment to tidy up; what takes longer does so in its thread.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="modal_magic modal", daemon=True)
    try:
        thread.start()
        return result_of(future, seconds)
    except TimeoutError:
        raise
    except BaseException:
        if abandoned is not None:
            abandoned.set()
        thread.join(TIDY_SECONDS)
        raise


def _start(plan: Plan, abandoned: threading.Event) -> tuple[Reached, Started]:
    import modal

    from modal_magic.backends.modal_app import deployed, node_class
    from modal_magic.backends.modal_meeting import Calls, GatewayAt, Meeting
    from modal_magic.backends.modal_trouble import TROUBLE, explain, reach

    containers = plan.containers
    key = f"{plan.session}-{uuid.uuid4().hex[:12]}"
    started = Started(key, [])
    calls = started.calls
    began = time.time()
    try:
        reach()
        app = deployed(plan.gpu, containers, plan.nodes)
        if abandoned.is_set():
            raise SessionError("the start of the session was interrupted")
        build = Stage("build", began, time.time() - began)
        keys = make_session_keys()
        ticket = _ticket(plan, keys, build)
        meeting = Meeting(key)
        meeting.put("ticket", ticket)
        if not containers.no_i6pn:
            calls.append(modal.Cls.from_name(app, "Gateway")().serve.spawn(key).object_id)
        node_of = modal.Cls.from_name(app, node_class(containers))()
        # One call makes a whole cluster, whose nodes learn their ranks from Modal.
        ranks = [None] if containers.clustered else range(plan.nodes)
        calls.extend(node_of.serve.spawn(key, node_rank).object_id for node_rank in ranks)
        meeting.put("calls", Calls(calls[0], calls[1:], plan.nodes))
        if containers.snapshot == "gpu":
            started = replace(started, watcher=_watch_restores(plan, app, started))
        at = meeting.wait("gateway", GatewayAt, containers.startup_timeout, abandoned.is_set)
        if at is None:
            raise SessionError(
                f"the gateway's container is still queued after {containers.startup_timeout:g} s: the session is "
                "given up"
            )
        host, port, notice = at.client_host, at.client_port, ""
        if plan.link == "auto" and not _answers(host, port):
            notice = (
                f"the gateway's tunnel, {host}:{port}, cannot be reached from this machine: the session's messages go "
                "through a queue of Modal, which takes longer (--link queue does so at once)"
            )
        if plan.link == "queue" or notice:
            bridge, port = bridges.start(plan.session, key)
            started, host = replace(started, bridge=bridge), "127.0.0.1"
    except BaseException as error:
        _give_up(started)
        if isinstance(error, TROUBLE):
            raise SessionError(explain(error)) from error
        raise
    checked = key if containers.scaledown is None else ""  # else containers are kept on purpose
    return Reached(host, port, keys.gateway.public, keys.client, 0, notice, checked), started


def _watch_restores(plan: Plan, app: str, started: Started) -> threading.Thread:
    """Have a thread see to it that nodes come though Modal cannot restore the memory of their GPUs."""
    from modal_magic.backends.modal_restores import watch_restores

    watched = plan, app, started.key, started.calls, started.done
    thread = threading.Thread(target=watch_restores, args=watched, name="modal_magic restores", daemon=True)
    thread.start()
    return thread


def _answers(host: str, port: int) -> bool:
    """Whether a gateway is behind a tunnel: the first byte that ZeroMQ says comes without being asked for.

    That a connection was made says nothing: a proxy between here and there may have taken it.
    """
    try:
        with socket.create_connection((host, port), TUNNEL_SECONDS) as connection:
            connection.settimeout(TUNNEL_SECONDS)
            return connection.recv(1) == b"\xff"
    except OSError:
        return False


def _ticket(plan: Plan, keys: SessionKeys, build: Stage) -> Ticket:
    from modal_magic.backends.modal_meeting import Ticket

    patience, now = plan.containers.startup_timeout, time.time()
    queued = [Stage("queue", now, node=node_rank) for node_rank in range(plan.nodes)]
    volumes = [volume.partition(":")[2] for volume in plan.containers.volume]
    lasting = volumes[0] if volumes else "/tmp/checkpoints"  # without a volume they last as long as a container
    gateway, agent = specifications(plan, keys, f"{lasting}/{plan.session}")
    stages = [build, Stage("gateway", now), *queued]
    return Ticket(
        gateway=msgspec.structs.replace(gateway, i6pn=not plan.containers.no_i6pn, patience=patience, stages=stages),
        agent=msgspec.structs.replace(agent, cores=round(plan.containers.cpu or 0)),
        patience=patience,
        link=plan.link,
        snapshot=plan.containers.snapshot,
        volumes=[volume.partition(":")[0] for volume in plan.containers.volume],
    )


def _end(started: Started | None, meeting: str, seconds: float) -> None:
    """Wait for the calls of a session, also of one that another kernel has started, and end those that do not end.

    With a `meeting`, see by Modal's own list that no container runs on.
    """

    from modal_magic.backends.modal_gateway import end_calls
    from modal_magic.backends.modal_inventory import left_running
    from modal_magic.backends.modal_meeting import Calls, Meeting
    from modal_magic.backends.modal_trouble import TROUBLE, reach

    left: list[str] = []
    if started is not None:
        _end_watcher(started)
    try:
        reach()
        calls = started.calls if started is not None else []
        if not calls and meeting and (known := Meeting(meeting).get("calls", Calls)) is not None:
            calls = [known.gateway, *known.nodes]
        end_calls(calls, seconds)
        if meeting:
            left = left_running(meeting, seconds)
    except TROUBLE as error:
        raise _unknown(str(error)) from error
    finally:
        if started is not None:
            _end_bridge(started)
    if left:
        raise SessionError(f"Modal still lists {', '.join(left)}: `modal container stop` ends one")


def _unknown(why: str) -> SessionError:
    return SessionError(
        f"Modal does not say whether its containers have ended ({why}): `modal container list` shows those that run"
    )


def _apps(remove_idle: bool) -> list[Deployed]:

    from modal_magic.backends import modal_inventory
    from modal_magic.backends.modal_trouble import TROUBLE, explain, reach

    try:
        reach()
        return modal_inventory.remove_idle() if remove_idle else modal_inventory.apps()
    except TROUBLE as error:
        raise SessionError(explain(error)) from error


def _give_up(started: Started | None) -> None:
    """End a session that nobody will know of. What cannot be done of it keeps nothing of the rest.

    Containers that come late learn from the meeting that it is over.
    """
    import modal

    from modal_magic.backends.modal_meeting import Meeting
    from modal_magic.backends.modal_trouble import TROUBLE

    if started is None:
        return
    _end_watcher(started)
    _end_bridge(started)
    for name in started.calls:
        with contextlib.suppress(*TROUBLE):
            modal.FunctionCall.from_id(name).cancel(terminate_containers=True)
    with contextlib.suppress(*TROUBLE):
        Meeting(started.key).end("its start was given up")


def _end_watcher(started: Started) -> None:
    """After this nobody calls nodes anew."""
    started.done.set()
    if started.watcher is not None:
        started.watcher.join(TIDY_SECONDS)


def _end_bridge(started: Started) -> None:
    if started.bridge is not None:
        started.bridge.terminate()
        try:
            started.bridge.wait(BRIDGE_SECONDS)
        except subprocess.TimeoutExpired:
            started.bridge.kill()
            started.bridge.wait()
