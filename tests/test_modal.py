"""Sessions on Modal, through the emulator: the real client, the real entrypoint, real kernels and ranks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest

from tests.emulator.handle import Handle
from tests.support.namespaces import possible
from tests.support.notebook import Notebook, notebook

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.kernel,
    pytest.mark.skipif(not possible(), reason="network namespaces need root and iproute2 on Linux"),
]

TWO = "%%modal_distributed --replicas 2 --backend modal\n"


@pytest.fixture
def modal_book(modal_service: Handle) -> Iterator[Notebook]:
    """A kernel that reaches the emulator, with the extension loaded. At its end no container may be left."""
    with modal_service.reached(), notebook() as opened:
        opened.run("%load_ext modal_magic")
        yield opened
        opened.run("%modal_stop --all")
    assert seen(lambda: not modal_service.containers()), modal_service.logs()


def seen(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait until something is so, as another process will have it."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


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
    assert modal_book.run("%modal_stop").stdout == "session-1 is stopped\n"
    assert seen(lambda: not modal_service.containers())


def test_a_session_starts_from_the_snapshot_and_its_ranks_draw_their_own_numbers(
    modal_book: Notebook, modal_service: Handle
) -> None:
    shown = modal_book.run(TWO + "import random, torch\nprint(random.random(), torch.rand(()).item())")
    assert len({line.partition("]")[2] for line in shown.lines}) == 2
    assert all(one["checkpointed"] for one in modal_service.containers("Node"))
    assert "snapshot" not in shown.stdout


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
    modal_book.run(TWO + "kept = rank * 10\nimport os, socket")
    before = {one["id"]: one["address"] for one in modal_service.containers("Node")}
    ask = "print(kept, [a[4][0] for a in socket.getaddrinfo('i6pn.modal.local', None, socket.AF_INET6)][0])"
    address = modal_book.run("%%modal_distributed --ranks 1\n" + ask).stdout.split()[-1]
    (victim,) = (name for name, there in before.items() if there == address)
    modal_service.ask("interrupt", container=victim)
    assert seen(lambda: victim not in [one["id"] for one in modal_service.containers("Node")])
    assert seen(lambda: ready(modal_book), 40), modal_book.run("%modal_status").stdout + modal_service.logs()
    done = modal_book.run(
        "%%modal_distributed\nimport torch, torch.distributed as dist\n"
        "total = torch.ones(1)\ndist.all_reduce(total)\nprint(int(total), globals().get('kept'))"
    )
    assert done.lines[:2] == ["[rank 0] 2 0", "[rank 1] 2 None"]
    assert "node 1 is back, in another container" in done.stdout


def test_the_loss_of_the_gateway_ends_the_session_and_every_container(
    modal_book: Notebook, modal_service: Handle
) -> None:
    modal_book.run(TWO + "pass")
    (gateway,) = modal_service.containers("Gateway")
    modal_service.ask("kill", container=gateway["id"])
    assert "is gone: its ranks end by themselves" in modal_book.run("%%modal_distributed\npass").error
    assert seen(lambda: not modal_service.containers(), 30)


def test_an_interrupt_while_containers_are_queued_leaves_nothing(modal_book: Notebook, modal_service: Handle) -> None:
    modal_service.ask("set", settings={"held": {"Gateway": 0, "Node": 0}})
    try:
        began = time.monotonic()
        sent = modal_book.send(TWO + "pass")
        assert seen(lambda: len(modal_service.ask("queued")) == 2)
        modal_book.manager.interrupt_kernel()
        assert modal_book.collect(sent, began).error_name == "KeyboardInterrupt"
        assert modal_service.ask("queued") == {}
    finally:
        modal_service.ask("set", settings={"held": {}})


def test_a_refused_token_is_said_in_one_sentence(modal_service: Handle) -> None:
    with modal_service.reached(), notebook() as opened:
        opened.run("%load_ext modal_magic\nimport os\nos.environ['MODAL_TOKEN_ID'] = 'wrong'")
        assert "Modal wants a token that it knows: `modal token new` makes one" in opened.run(TWO + "pass").error


def ready(book: Notebook) -> bool:
    """Whether the session says that all its ranks are ready."""
    return ": ready," in book.run("%modal_status").stdout
