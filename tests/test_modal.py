"""Sessions on Modal, through the emulator: the real client, the real entrypoint, real kernels and ranks."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import modal
import pytest

from modal_magic import Session
from modal_magic.backends import modal as backend
from modal_magic.backends.base import Plan, Reached
from tests.modal_emulator.handle import Handle
from tests.support.eventually import seen
from tests.support.modal_service import modal_book
from tests.support.namespaces import possible
from tests.support.notebook import Notebook, notebook

__all__ = ["modal_book"]

pytestmark = [
    pytest.mark.patient,
    pytest.mark.timeout(300),  # they wait for containers, behind all else that this machine does
    pytest.mark.namespaces,
    pytest.mark.kernel,
    pytest.mark.skipif(not possible(), reason="network namespaces need root and iproute2 on Linux"),
]

TWO = "%%modal_distributed --replicas 2 --backend modal\n"


def test_a_cell_runs_on_two_containers_and_stop_leaves_none(modal_book: Notebook, modal_service: Handle) -> None:
    assert modal_book.run(TWO + "pass").error == ""
    shown = modal_book.run(
        "%%modal_distributed\n"
        "import os, torch, torch.distributed as dist\n"
        "total = torch.tensor([float(rank)])\n"
        "dist.all_reduce(total)\n"
        "names = 'MASTER_ADDR GLOO_SOCKET_IFNAME MODAL_I6PN_ENABLED'.split()\n"
        "print(total.item(), *(os.environ[name] for name in names))"
    )
    nodes = sorted(modal_service.containers("Node"), key=lambda one: str(one["id"]))
    assert len(nodes) == 2
    assert len(modal_service.containers("Gateway")) == 1
    address = re.findall(r"fdaa:\S+", shown.stdout)[0]
    assert shown.lines == [f"[rank {rank}] 1.0 {address} eth1 1" for rank in (0, 1)]
    assert address in [one["address"] for one in nodes]
    status = modal_book.run("%modal_status").stdout
    assert re.search(r"\n  start: build .* queue .* (cold start|restore) .* fork .* rendezvous .* first cell", status)
    assert re.search(
        r"\n  costs \$0\.0\d an hour, less than \$0\.01 so far \(Modal's prices of \d{4}-\d\d-\d\d", status
    )
    app = nodes[0]["app"]
    assert "session-1 is stopped" in modal_book.run("%modal_stop --all").stdout
    assert not modal_service.containers()
    told = modal_book.run("%modal_stop --all").stdout
    assert app in told and "They cost nothing" in told
    removed = modal_book.run("%modal_stop --all --apps").stdout
    assert "removed from Modal: " in removed and app in removed
    assert "0 idle apps" in modal_book.run("%modal_stop --all --apps").stdout


def test_a_second_session_starts_from_the_snapshot_and_all_ranks_draw_numbers_of_their_own(
    modal_book: Notebook, modal_service: Handle, tmp_path: Path
) -> None:
    # What is imported before the snapshot leaves all zygotes with the same numbers to draw, as one snapshot does.
    seeds = "import random, numpy, torch\nrandom.seed(0)\nnumpy.random.seed(0)\ntorch.manual_seed(0)\n"
    (tmp_path / "equal_seeds.py").write_text(seeds)
    modal_book.run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})")
    line = "%%modal_distributed --replicas 2 --backend modal --include equal_seeds --preload equal_seeds\n"
    draw = (
        "import random, sys, numpy, torch\n"
        "print(random.random(), numpy.random.rand(), torch.rand(()).item(), 'equal_seeds' in sys.modules)"
    )
    drawn: list[str] = []
    for stage, other in (("cold start", "restore"), ("restore", "cold start")):
        shown = modal_book.run(line + draw)
        drawn += [number for line in shown.lines if line.startswith("[rank") for number in line.split()[2:-1]]
        assert shown.stdout.count(" True\n") == 2
        assert all(one["checkpointed"] for one in modal_service.containers("Node"))
        assert "snapshot" not in shown.stdout
        status = modal_book.run("%modal_status").stdout
        assert re.search(rf"\n  start: build .* {stage} \d", status) and other not in status, status
        assert modal_book.run("%modal_stop").error == ""
    assert len(drawn) == len({*drawn}) == 2 * 2 * 3


def test_a_snapshot_that_loses_the_zygote_is_a_slower_start_and_said(
    modal_book: Notebook, modal_service: Handle
) -> None:
    modal_service.ask("set", settings={"snapshot": "childless"})
    try:
        shown = modal_book.run(TWO + "print('here')")
    finally:
        modal_service.ask("set", settings={"snapshot": "continue"})
    assert "[rank 1] here" in shown.stdout
    assert shown.stdout.count("the memory snapshot did not bring back the process that forks ranks") == 1


def test_a_preempted_node_comes_back_under_its_number_and_the_others_keep_their_variables(
    modal_book: Notebook, modal_service: Handle
) -> None:
    modal_book.run(TWO + "kept = rank * 10")
    victim = container_of_rank_1(modal_book, modal_service)
    began = time.monotonic()
    sent = modal_book.send("%%modal_distributed\npass")
    modal_book.collect(sent, began)
    modal_service.ask("interrupt", container=victim)
    # What happens between cells is told below the last one.
    told = modal_book.wait_for(sent, "node 1 is back, in another container", began)
    assert "node 1 is preempted: its ranks save what they can" in told.stderr
    assert victim not in [one["id"] for one in modal_service.containers("Node")]
    assert seen(lambda: ready(modal_book)), modal_book.run("%modal_status").stdout + modal_service.logs()
    done = modal_book.run(
        "%%modal_distributed\nimport torch, torch.distributed as dist\n"
        "total = torch.ones(1)\ndist.all_reduce(total)\nprint(int(total), globals().get('kept'))"
    )
    assert done.lines[:2] == ["[rank 0] 2 0", "[rank 1] 2 None"]


def test_a_session_waits_for_its_only_node_that_was_taken_away(modal_book: Notebook, modal_service: Handle) -> None:
    began = time.monotonic()
    sent = modal_book.send("%%modal_distributed --replicas 1 --backend modal\nkept = 1")
    modal_book.collect(sent, began)
    [victim] = [str(one["id"]) for one in modal_service.containers("Node")]
    modal_service.ask("interrupt", container=victim)
    told = modal_book.wait_for(sent, "node 0 is back, in another container", began)
    assert "no node is left: ranks start anew, without variables, when theirs is back" in told.stderr
    assert seen(lambda: ready(modal_book)), modal_book.run("%modal_status").stdout + modal_service.logs()
    assert modal_book.run("%%modal_distributed\nprint(globals().get('kept'))").lines[:1] == ["[rank 0] None"]


def test_a_preempted_rank_saves_its_work_and_the_next_one_goes_on_from_there(
    modal_book: Notebook, modal_service: Handle, tmp_path: Path
) -> None:
    modal.Volume.from_name("kept", create_if_missing=True).hydrate()
    line = f"%%modal_distributed --replicas 2 --backend modal --volume kept:{tmp_path}\n"
    begun = modal_book.run(
        line + "import modal_magic, time, torch, torch.distributed as dist\n"
        "path = modal_magic.checkpoint_dir / f'{rank}.pt'\n"
        "@modal_magic.on_preempt\ndef save():\n    torch.save(step, path)\n"
    )
    assert begun.error == ""
    victim = container_of_rank_1(modal_book, modal_service)
    began = time.monotonic()
    sent = modal_book.send(
        "%%modal_distributed\n"
        "for step in range(10**6):\n    dist.all_reduce(torch.ones(1))\n    if step == 20: print('under way')"
    )
    modal_book.wait_for(sent, "under way", began)
    modal_service.ask("interrupt", container=victim)
    failed = modal_book.collect(sent, began)
    assert failed.error_name == "RankFailed"
    assert seen(lambda: ready(modal_book)), modal_service.logs()
    resumed = modal_book.run(
        "%%modal_distributed --ranks 1\nimport modal_magic, torch\n"
        "print(torch.load(modal_magic.checkpoint_dir / '1.pt') >= 20)"
    )
    assert "[rank 1] True" in resumed.stdout
    assert list(tmp_path.rglob("*.pt")) == [tmp_path / session_of(modal_book) / "1.pt"]


def test_the_loss_of_the_gateway_ends_the_session_and_every_container(
    modal_book: Notebook, modal_service: Handle
) -> None:
    modal_book.run(TWO + "pass")
    (gateway,) = modal_service.containers("Gateway")
    modal_service.ask("kill", container=gateway["id"])
    began = time.monotonic()
    sent = modal_book.send("%%modal_distributed\npass")
    modal_book.wait_for(sent, "cannot be reached. This waits for it", began)
    modal_book.manager.interrupt_kernel()
    assert modal_book.collect(sent, began).error_name == "GatewayBusy"
    assert modal_book.run("%modal_stop").stdout == "session-1 is stopped\n"
    assert not modal_service.containers()


def test_an_interrupt_while_an_image_is_built_or_containers_are_queued_leaves_nothing(
    modal_book: Notebook, modal_service: Handle
) -> None:
    before = len(modal_service.ask("history"))
    modal_service.ask("set", settings={"build_seconds": 200.0})
    try:
        began = time.monotonic()
        sent = modal_book.send("%%modal_distributed --backend modal --pip slow\npass")
        assert seen(lambda: "is built" in str(modal_service.ask("history")[before:]))
        modal_book.manager.interrupt_kernel()
        assert modal_book.collect(sent, began, 150).error_name == "KeyboardInterrupt"
    finally:
        modal_service.ask("set", settings={"build_seconds": 0.0})
    modal_service.ask("set", settings={"held": {"Gateway": 0, "Node": 0}})
    try:
        began = time.monotonic()
        sent = modal_book.send(TWO + "pass")
        assert seen(lambda: len(modal_service.ask("queued")) == 2)
        modal_book.manager.interrupt_kernel()
        assert modal_book.collect(sent, began).error_name == "KeyboardInterrupt"
        assert seen(lambda: modal_service.ask("queued") == {})
    finally:
        modal_service.ask("set", settings={"held": {}})
    with modal_service.reached():
        assert seen(lambda: not [key for key in entries() if key.endswith("/ticket")])


def test_an_interrupt_just_as_a_session_is_up_leaves_nothing(
    modal_service: Handle, runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = backend._start

    def interrupted(plan: Plan, abandoned: threading.Event) -> tuple[Reached, backend.Started]:
        up = start(plan, abandoned)
        os.kill(os.getpid(), signal.SIGINT)
        assert abandoned.wait(30)
        return up

    monkeypatch.setattr(backend, "_start", interrupted)
    with modal_service.reached():
        with pytest.raises(KeyboardInterrupt):
            Session(backend="modal", session="given-up", framework="none")
        assert seen(lambda: not modal_service.containers() and not modal_service.ask("queued")), modal_service.logs()
        left = {key.partition("/")[2] for key in entries() if key.startswith("given-up-")}
    assert "over" in left and "ticket" not in left  # which has the keys
    assert not (runtime_folder / "given-up").exists()


def test_a_token_that_is_missing_or_refused_is_said_in_one_sentence(modal_service: Handle) -> None:
    with modal_service.reached(), notebook() as opened:
        opened.run("%load_ext modal_magic\nimport os\ndel os.environ['MODAL_TOKEN_ID']")
        assert "Modal wants a token that it knows: `modal token new` makes one" in opened.run(TWO + "pass").error
        opened.run("os.environ['MODAL_TOKEN_ID'] = 'wrong'")
        assert "Modal wants a token that it knows: `modal token new` makes one" in opened.run(TWO + "pass").error


def entries() -> list[str]:
    """What is written where the parts of sessions meet."""
    return [str(key) for key in modal.Dict.from_name("modal-magic").keys()]  # noqa: SIM118 - it is no mapping


def container_of_rank_1(book: Notebook, service: Handle) -> str:
    """The container that rank 1 is in, found by its address on i6pn."""
    ask = "import socket\nprint(socket.getaddrinfo('i6pn.modal.local', None, socket.AF_INET6)[0][4][0])"
    address = book.run("%%modal_distributed --ranks 1\n" + ask).stdout.split()[-1]
    (name,) = (str(one["id"]) for one in service.containers("Node") if one["address"] == address)
    return name


def session_of(book: Notebook) -> str:
    """The name of the notebook's session."""
    return book.run("%modal_status").stdout.partition(":")[0]


def ready(book: Notebook) -> bool:
    """Whether the session says that all its ranks are ready."""
    return ": ready," in book.run("%modal_status").stdout
