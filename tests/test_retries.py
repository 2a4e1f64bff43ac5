"""Time limits and retries with real ranks: a lost rank costs an attempt, not the run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from modal_magic import RankFailed, Retries, RunInterrupted, Session
from tests.support.notebook import Notebook, notebook

AT_ONCE = Retries(2, initial_delay=0.0)
DIES_ONCE = "import os, modal_magic\nif rank == 1 and modal_magic.attempt == 1: os._exit(7)\n"
ALL_REDUCE = "import torch, torch.distributed as dist\nt = torch.ones(1); dist.all_reduce(t)\n"


@pytest.fixture
def session(shared_session: Session) -> Session:
    return shared_session


def test_a_run_goes_on_from_its_checkpoint_after_a_rank_was_lost(session: Session, tmp_path: Path) -> None:
    source = (
        "import os, pathlib, signal, modal_magic\n"
        f"path = pathlib.Path({str(tmp_path)!r}) / 'checkpoint'\n"
        "step = int(path.read_text()) if path.exists() else 0\n"
        "first = step\n"
        f"{ALL_REDUCE}"
        "while step < 6:\n"
        "    step += 1\n"
        "    if rank == 0: path.write_text(str(step))\n"
        "    dist.barrier()\n"
        "    if rank == 2 and step == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "(modal_magic.attempt, first, step, int(t))"
    )
    run = session.run(source, retries=AT_ONCE).wait(60)
    results = {rank: eval(view.result or "") for rank, view in run.ranks.items()}
    assert {attempt for attempt, *_ in results.values()} == {2}
    assert {first for _, first, *_ in results.values()} <= {3, 4}
    assert {tuple(rest) for _, _, *rest in results.values()} == {(6, 4)}
    assert (run.view.attempt, run.status) == (2, "done")


def test_other_ranks_keep_their_variables_for_the_next_attempt(session: Session) -> None:
    session.run("kept = rank").wait(30)
    run = session.run(DIES_ONCE + "globals().get('kept')", retries=AT_ONCE).wait(60)
    assert [run.ranks[rank].result for rank in range(4)] == ["0", None, "2", "3"]


def test_the_attempt_is_where_torchrun_has_it_and_begins_anew_with_the_next_run(session: Session) -> None:
    ask = "os.environ['TORCHELASTIC_RESTART_COUNT'], modal_magic.attempt"
    run = session.run(DIES_ONCE + ask, retries=AT_ONCE).wait(60)
    assert {view.result for view in run.ranks.values()} == {"('1', 2)"}
    run = session.run(f"import os, modal_magic\n{ask}").wait(30)
    assert {view.result for view in run.ranks.values()} == {"('0', 1)"}


def test_after_the_last_attempt_the_run_fails_with_its_last_cause(session: Session) -> None:
    run = session.run("import os\nif rank == 1: os._exit(7)", retries=AT_ONCE)
    with pytest.raises(RankFailed, match=r"^rank 1 ended its process with exit code 7\..*This was attempt 3\.$"):
        run.wait(60)


def test_a_cell_that_raises_is_run_again_only_if_that_is_wanted(session: Session) -> None:
    source = "import modal_magic\nif rank == 1 and modal_magic.attempt < 3: 1 / 0\nmodal_magic.attempt"
    with pytest.raises(RankFailed, match="raised ZeroDivisionError"):
        session.run(source, retries=AT_ONCE).wait(30)
    run = session.run(source, retries=Retries(2, initial_delay=0.0, on_error=True)).wait(60)
    assert {view.result for view in run.ranks.values()} == {"3"}


def test_a_run_that_waits_for_its_next_attempt_can_be_interrupted(session: Session) -> None:
    run = session.run("import os\nif rank == 1: os._exit(7)", retries=Retries(1, initial_delay=60.0))
    while run.view.attempt != 2:
        run.events(30)
    assert session.status().run == run.id
    assert session.interrupt() == run.id
    with pytest.raises(RunInterrupted, match=r"; rank 1 lost the variables of earlier cells .*; ranks 0,2-3 keep"):
        run.wait(10)


def test_a_run_past_its_time_limit_is_interrupted_in_a_loop_and_in_a_collective(session: Session) -> None:
    source = ALL_REDUCE + "kept = rank\nif rank == 0:\n    while True: pass\ndist.barrier()"
    with pytest.raises(RunInterrupted, match=r"reached its time limit of 3s \(--timeout\).*variables are kept"):
        session.run(source, timeout=3.0).wait(30)
    run = session.run(ALL_REDUCE + "int(t), kept").wait(30)
    assert [run.ranks[rank].result for rank in range(4)] == [f"(4, {rank})" for rank in range(4)]


@pytest.mark.kernel
def test_the_notebook_says_which_rank_was_lost_and_when_the_next_attempt_begins(book: Notebook) -> None:
    line = "%%modal_distributed --replicas 2 --backend local --retries 2 --retry-initial-delay 0.2s\n"
    shown = book.run(line + DIES_ONCE + "print('attempt', modal_magic.attempt)")
    assert not shown.error
    told = "rank 1 ended its process with exit code 7. Attempt 2 of 3 begins in 0.2 s. Rank 1 comes back without "
    assert f"{told}variables.\n" in shown.stderr
    assert [text for text in shown.lines if text.endswith("attempt 2")] == [
        "[rank 0] attempt 2",
        "[rank 1] attempt 2",
    ]


@pytest.mark.kernel
def test_a_cell_with_a_time_limit_gives_the_notebook_back(book: Notebook) -> None:
    shown = book.run("%%modal_distributed -n 2 --backend local --timeout 0.5s\nimport time\ntime.sleep(100)")
    assert shown.error_name == "RunInterrupted"
    assert shown.error.startswith("the run was interrupted: it reached its time limit of 0.5s (--timeout) (ranks 0-1 ")


@pytest.mark.kernel
def test_another_kernel_can_interrupt_a_run(session: Session) -> None:
    run = session.run("import time\nprint('begun', flush=True)\ntime.sleep(100)")
    while not all(view.output for view in run.ranks.values()) or len(run.ranks) < 4:
        run.events(30)
    line = f"%modal_interrupt --session {session.name}"
    with notebook() as other:
        other.run("%load_ext modal_magic")
        assert other.run(line).stdout == f"{session.name}: run {run.id} is interrupted\n"
        with pytest.raises(RunInterrupted):
            run.wait(10)
        assert other.run(line).stdout == f"{session.name}: no run is in progress\n"


def test_a_rank_that_is_killed_from_outside_costs_an_attempt(session: Session) -> None:
    run = session.run("import time, modal_magic\nif modal_magic.attempt == 1: time.sleep(100)", retries=AT_ONCE)
    while len(run.ranks) < 4 or any(view.state != "running" for view in run.ranks.values()):
        run.events(30)
    began = time.monotonic()
    os.kill(session.status().ranks[3].pid, signal.SIGKILL)
    assert run.wait(30).view.attempt == 2
    assert time.monotonic() - began < 10


def test_a_run_whose_agent_dies_goes_on_with_the_ranks_of_a_new_one(session: Session) -> None:
    run = session.run(
        "import time, modal_magic\nif modal_magic.attempt == 1: time.sleep(100)\nmodal_magic.attempt", retries=2
    )
    while len(run.ranks) < 4 or any(view.state != "running" for view in run.ranks.values()):
        run.events(30)
    ranks = [rank.pid for rank in session.status().ranks]
    zygote = psutil.Process(ranks[0]).parent()
    assert zygote is not None
    agents = {child.pid for child in zygote.children()} - {*ranks, session.connection.pid}
    os.kill(max(agents), signal.SIGKILL)
    assert run.wait(40).result == dict.fromkeys(range(4), "2")
