"""What befalls the containers of a session on Modal costs what it must and no more: one session for all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from modal_magic import RankFailed, Retries, RunInterrupted, Session
from modal_magic.sessions.resources import Resources
from tests.modal_emulator.handle import Handle
from tests.support.eventually import seen
from tests.support.namespaces import possible
from tests.support.training import begun, train

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.skipif(not possible(), reason="network namespaces need root and iproute2 on Linux"),
]

ALL_REDUCE = "import torch, torch.distributed as dist\ntotal = torch.ones(1)\ndist.all_reduce(total)\n"


@pytest.fixture(scope="module")
def two(modal_service: Handle, resources: Resources) -> Iterator[Session]:
    """A session of two containers with a rank each, reached from this process."""
    with modal_service.reached(), Session(resources=resources, replicas=2, backend="modal") as session:
        yield session.ready()
    assert seen(lambda: not modal_service.containers())


def results(session: Session, source: str) -> list[str | None]:
    """The value of each rank's last expression, once all ranks are ready."""
    assert seen(lambda: session.state == "ready"), session.state
    done = session.run(source).wait(30)
    return [done.ranks[rank].result for rank in (0, 1)]


def container_of_node_1(session: Session, service: Handle) -> str:
    """The container of rank 1, found by its name on Modal, which every process in it has."""
    done = session.run("import os\nos.environ['MODAL_TASK_ID']", ranks=[1]).wait(30)
    return str(eval(done.ranks[1].result or ""))


def test_an_interrupt_frees_ranks_that_wait_for_one_that_does_not_come(two: Session) -> None:
    assert results(two, "kept = rank") == [None, None]
    waiting = "import time\nprint('begun', flush=True)\ndist.barrier() if rank else time.sleep(60)"
    run = begun(two.run(ALL_REDUCE + waiting))
    began = time.monotonic()
    run.interrupt()
    with pytest.raises(RunInterrupted):
        run.wait(10)
    assert time.monotonic() - began < 2
    assert results(two, ALL_REDUCE + "kept, int(total)") == ["(0, 2)", "(1, 2)"]


def test_a_node_that_is_cut_off_comes_back_with_its_variables(two: Session, modal_service: Handle) -> None:
    victim = container_of_node_1(two, modal_service)
    run = train(two)
    began = time.monotonic()
    modal_service.ask("link", container=victim, state="down")
    with pytest.raises(RankFailed, match="rank 1 went silent with node 1, which stopped answering"):
        run.wait(10)
    assert time.monotonic() - began < 3
    modal_service.ask("link", container=victim, state="up")
    assert results(two, ALL_REDUCE + "kept, int(total)") == ["(0, 2)", "(1, 2)"]


def test_an_attempt_waits_for_the_node_that_was_taken_away(two: Session, modal_service: Handle) -> None:
    victim = container_of_node_1(two, modal_service)
    source = (
        "import modal_magic, time, torch, torch.distributed as dist\n"
        "print('begun', flush=True)\n"
        "while True:\n"
        "    dist.all_reduce(total := torch.ones(1))\n"
        "    if modal_magic.attempt > 1: break\n"
        "    time.sleep(0.01)\n"
        "modal_magic.attempt, int(total)"
    )
    run = begun(two.run(source, retries=Retries(1, initial_delay=0.0)))
    modal_service.ask("interrupt", container=victim)
    assert {view.result for view in run.wait(60).ranks.values()} == {"(2, 2)"}
    assert container_of_node_1(two, modal_service) != victim


def test_a_container_that_is_lost_is_replaced_and_only_its_variables_with_it(
    two: Session, modal_service: Handle
) -> None:
    victim = container_of_node_1(two, modal_service)
    run = train(two)
    began = time.monotonic()
    modal_service.ask("kill", container=victim)
    with pytest.raises(RankFailed, match="rank 1 went silent with node 1, which stopped answering"):
        run.wait(10)
    assert time.monotonic() - began < 3
    assert results(two, ALL_REDUCE + "globals().get('kept'), int(total)") == ["(0, 2)", "(None, 2)"]
    assert container_of_node_1(two, modal_service) != victim
