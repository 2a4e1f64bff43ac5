"""The way to a gateway on Modal: through a tunnel that is far away, and through a queue where there is no tunnel."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from modal_magic import Session, SessionError, registry
from modal_magic.backends import modal as backend
from modal_magic.errors import GatewayBusy
from modal_magic.sessions.session import Resources
from tests.modal_emulator.handle import Handle
from tests.support.eventually import seen, until
from tests.support.modal_service import modal_book, settings
from tests.support.namespaces import possible
from tests.support.notebook import Notebook
from tests.support.processes import ours
from tests.support.training import begun

__all__ = ["modal_book"]

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.kernel,
    pytest.mark.skipif(not possible(), reason="network namespaces need root and iproute2 on Linux"),
]

ROUND_TRIP = 0.08
LINES = 10_000


def test_far_away_a_short_cell_takes_about_one_round_trip_and_no_line_is_lost(
    modal_service: Handle, resources: Resources
) -> None:
    with (
        settings(modal_service, {"round_trip": 0.0}, round_trip=ROUND_TRIP),
        modal_service.reached(),
        Session(resources=resources, backend="modal", nproc_per_node=4, framework="none", link="tunnel") as session,
    ):
        session.ready()
        taken = []
        for _ in range(10):
            began = time.monotonic()
            session.run("pass").wait(30)
            taken.append(time.monotonic() - began)
        assert ROUND_TRIP <= min(taken) < 2 * ROUND_TRIP, taken
        with settings(modal_service, {"answers": True}, answers=False):  # cells need nothing but the tunnel
            session.run(f"for i in range({LINES}): print(f'line {{i}} of rank {{rank}}')").wait(60)
            assert whole(session)


@pytest.mark.timeout(300)
def test_while_modal_does_not_answer_a_session_behind_a_queue_waits_and_can_be_left(
    modal_service: Handle, resources: Resources, runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with modal_service.reached():
        session = Session(resources=resources, backend="modal", session="away", framework="none", link="queue").ready()
        source = "import time\nprint('begun')\nfor i in range(200):\n    print(f'line {i}')\n    time.sleep(0.02)"
        # Calls wait for an answer, or are refused: what was printed meanwhile comes when Modal answers again.
        refused = {name: ["UNAVAILABLE", "away"] for name in ("QueueGet", "QueuePut", "DictContains")}
        for trouble in ({"answers": False}, {"refused": refused}):
            run = begun(session.run(source))
            with settings(modal_service, {"answers": True, "refused": {}}, **trouble):
                assert seen(lambda: session._client.silent)
            assert run.wait(60).ranks[0].output == "begun\n" + "".join(f"line {i}\n" for i in range(200))
        monkeypatch.setattr(backend, "ANSWER_SECONDS", 1.0)
        with settings(modal_service, {"answers": True}, answers=False):
            began = time.monotonic()
            with pytest.raises(SessionError, match="has not said that it ends, and Modal does not say whether"):
                session.stop(1.0)
            assert time.monotonic() - began < 20
            assert seen(lambda: not bridges(runtime_folder))

        def attached() -> Session | None:
            with suppress(GatewayBusy):  # one that was just away may have lost a first word
                return Session.attach("away", resources)
            return None

        until(attached).stop()
    assert seen(lambda: not modal_service.containers()), modal_service.logs()
    assert not (runtime_folder / "away").exists()


@pytest.mark.patient
@pytest.mark.timeout(300)
def test_where_no_tunnel_can_be_reached_the_session_goes_through_a_queue_until_its_end(
    modal_book: Notebook, modal_service: Handle, runtime_folder: Path, tmp_path: Path
) -> None:
    with settings(modal_service, {"tunnels": True}, tunnels=False):
        begun = modal_book.run(
            "%%modal_distributed --backend modal --nproc-per-node 4 --framework none --session far\n"
            "precious = rank + 41"
        )
    assert "cannot be reached from this machine: the session's messages go through a queue" in begun.stdout
    modal_book.run(f"%%modal_distributed\nfor i in range({LINES}): print(f'line {{i}}')")
    modal_book.run(f"%modal_logs --file {tmp_path / 'log'}")
    lines = [line for line in (tmp_path / "log").read_text().splitlines() if "line" in line]
    assert sorted(lines) == sorted(f"[rank {rank}] line {i}" for rank in range(4) for i in range(LINES))
    # The bridge is lost in the middle of a run: another takes its place, and all that was printed is shown once.
    began = time.monotonic()
    sent = modal_book.send(
        "%%modal_distributed --ranks 0\nimport time\nfor i in range(100):\n    print(f'line {i}')\n    time.sleep(0.04)"
    )
    begun = modal_book.wait_for(sent, "line 5\n", began)
    (first,) = bridges(runtime_folder)
    os.kill(first, signal.SIGKILL)
    rest = modal_book.collect(sent, began)
    shown = [line for line in (begun.stdout + rest.stdout).splitlines() if "line" in line]
    assert Counter(shown) == Counter(f"[rank 0] line {i}" for i in range(100))
    assert "the bridge to the gateway of session 'far' was lost: another was started in its place" in rest.stdout
    assert len(bridges(runtime_folder)) == 1
    began = time.monotonic()
    sent = modal_book.send("%%modal_distributed\nimport time\nprint('under way')\ntime.sleep(60)")
    modal_book.wait_for(sent, "under way", began)
    modal_book.manager.interrupt_kernel()
    assert modal_book.collect(sent, began).error_name == "RunInterrupted"
    # The bridge is lost, and another program has its port, as after a reboot.
    (second,), port = bridges(runtime_folder), registry.read("far").port
    os.kill(second, signal.SIGKILL)
    with taken(port):
        assert seen(lambda: registry.read("far").port != port)
        assert "[rank 1] 42" in modal_book.run("%%modal_distributed\nprint(precious)").stdout
        restart(modal_book)
        modal_book.run("%load_ext modal_magic")
        assert "[rank 1] 42" in modal_book.run("%%modal_distributed --session far\nprint(precious)").stdout
    # Nobody here hears of the session's end: the bridge sees to it that nothing is left.
    restart(modal_book)
    assert len(bridges(runtime_folder)) == 1
    modal_service.ask("kill", container=modal_service.containers("Gateway")[0]["id"])
    assert seen(lambda: not modal_service.containers()), modal_service.logs()
    assert seen(lambda: not bridges(runtime_folder) and not (runtime_folder / "far").exists())


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Have a port of this machine for the time of this context, as soon as it is free."""

    def take() -> socket.socket | None:
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
        return None

    with until(take):
        yield


def restart(book: Notebook) -> None:
    """Restart a kernel, as its menu would."""
    book.manager.restart_kernel(now=True)
    book.client.wait_for_ready(timeout=60)


def whole(session: Session) -> bool:
    """Whether the log of the last run has every line of every rank, in order."""
    lines = session.logs()
    return all(
        [text for number, _, text in lines if number == rank] == [f"line {i} of rank {rank}" for i in range(LINES)]
        for rank in range(session.world_size)
    )


def bridges(folder: Path) -> list[int]:
    """The bridges of sessions in this folder, by their process ids."""
    found = []
    for one in ours(str(folder)):
        with suppress(psutil.NoSuchProcess):
            if "modal_magic.backends.modal_bridge" in one.cmdline():
                found.append(one.pid)
    return found
