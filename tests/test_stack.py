"""Where everyone is, in real ranks and real kernels: while they wait, compute, hold the GIL or are stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modal_magic import RunInterrupted, Session
from modal_magic import protocol as p
from modal_magic.ranges import parse_ranks
from modal_magic.sessions.run import Run
from tests.support.eventually import until
from tests.support.notebook import Notebook, notebook

STACK = "%modal_stack --session watched"
FOUR = "%%modal_distributed --replicas 4 --backend local\n"
BEFORE = """import asyncio, ctypes, sys, time
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
ddp = DDP(torch.nn.Linear(2, 1))
for step in range(3): ddp(torch.ones(1, 2)).sum().backward()
"""
COLLECTIVES = {
    "all_reduce": "dist.all_reduce(torch.ones(1))",
    "barrier": "dist.barrier()",
    "broadcast": "dist.broadcast(torch.ones(1), src=1)",
    "all_reduce (async)": "dist.all_reduce(torch.ones(1), async_op=True).wait()",
    "recv": "dist.recv(torch.ones(1), src=1)",
    "irecv": "[work.wait() for work in dist.batch_isend_irecv([dist.P2POp(dist.irecv, torch.ones(1), 1)])]",
    "all_gather_object": "dist.all_gather_object([None] * 4, rank)",
    "backward (DDP)": "ddp(torch.ones(1, 2)).sum().backward()",
    "init_process_group": "dist.init_process_group('gloo')",
    "DistributedDataParallel()": "DDP(torch.nn.Linear(2, 1))",
}


@pytest.fixture
def session(shared_session: Session) -> Session:
    return shared_session


def found(session: Session, wanted: Callable[[list[p.RankStack]], bool]) -> list[p.RankStack]:
    """The stacks of a session, as soon as they are as wanted."""
    until = time.monotonic() + 20
    while not wanted(stacks := session.stacks()):
        assert time.monotonic() < until, stacks
    return stacks


COLLECTED = """
import faulthandler, gc, itertools, os, threading, time
from modal_magic.frameworks.plain import Plain
from modal_magic.node.stacks import Sampler

class Slow:
    def __init__(self):
        self.itself = self  # so it is the collector's
    def __del__(self):
        time.sleep(0.001)  # others run Python meanwhile

def look():
    sampler = Sampler(Plain(None), threading.main_thread().ident)
    for number in itertools.count():
        gc.set_threshold(1 + number % 40)
        Slow()
        sampler.take("", 0)

def deep(calls):
    deep(calls - 1) if calls else time.sleep(0.0003)

faulthandler.enable()
faulthandler.dump_traceback_later(30, exit=True)
threading.Thread(target=look, daemon=True).start()
until = time.monotonic() + 4
while time.monotonic() < until:
    deep(20)
    other = threading.Thread(target=int)
    other.start()
    other.join()
os._exit(0)
"""
"""A thread that is looked at comes and goes, and starts others, while what the look has made is collected."""


def lines(*numbers: int) -> Callable[[list[p.RankStack]], bool]:
    """Whether the ranks are at these lines of the cell."""
    return lambda stacks: [stack.where and stack.where.line for stack in stacks] == list(numbers)


def leave(run: Run) -> str:
    """Interrupt a run and wait for its end. Returns what is said of it."""
    run.interrupt()
    with pytest.raises(RunInterrupted) as interrupted:
        run.wait(30)
    return str(interrupted.value)


# ---- where ranks are -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COLLECTIVES)
def test_ranks_in_a_collective_are_told_from_one_that_is_not(session: Session, name: str) -> None:
    session.run(BEFORE).wait(60)
    run = session.run(f"if rank == 1:\n    time.sleep(60)\n{COLLECTIVES[name]}")

    def waiting(stacks: list[p.RankStack]) -> bool:
        # On the way to backward a rank goes through the forward of DDP, which is a collective too.
        return lines(3, 2, 3, 3)(stacks) and all(s.where and s.where.collective == name for s in stacks if s.rank != 1)

    stacks = found(session, waiting)
    assert stacks[1].where is not None and stacks[1].where.collective == ""
    if "recv" in name:
        assert stacks[3].where is not None
        assert (stacks[3].where.group, stacks[3].where.members) == ("from rank 1", [1, 3])
    assert [stack.state for stack in stacks] == ["running"] * 4
    assert f"ranks 0,2-3 in {name} at cell line 3" in leave(run)


def test_a_collective_that_was_left_is_not_one_that_a_rank_is_in(session: Session) -> None:
    session.run(BEFORE).wait(60)
    run = session.run("dist.all_reduce(torch.ones(1))\ntime.sleep(60)")
    for stack in found(session, lines(2, 2, 2, 2)):
        assert stack.where is not None and (stack.where.collective, stack.where.group) == ("", "default group")
    leave(run)


def test_the_sequence_number_counts_the_collectives_of_the_group(session: Session) -> None:
    session.run(BEFORE).wait(60)
    run = session.run(
        "pair = dist.new_group([0, 2])\nfor _ in range(5):\n    dist.all_reduce(torch.ones(1), group=pair)\n"
        "if rank == 2: time.sleep(60)\nif rank == 0: dist.all_reduce(torch.ones(1), group=pair)"
    )

    def waiting(stacks: list[p.RankStack]) -> bool:
        return stacks[0].where is not None and stacks[0].where.line == 5 and stacks[0].where.sequence == 6

    where = found(session, waiting)[0].where
    assert where is not None
    assert (where.collective, where.group, where.sequence, where.members) == (
        "all_reduce",
        "group of ranks 0,2",
        6,
        [0, 2],
    )
    leave(run)


def test_the_function_that_a_cell_has_called_is_named_with_its_file(session: Session, tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("import time\n\ndef load_data():\n    time.sleep(60)\n")
    run = session.run(f"import sys\nsys.path.append({str(tmp_path)!r})\nimport data\n\ndata.load_data()")
    stack = found(session, lines(5, 5, 5, 5))[0]
    assert stack.where is not None and stack.where.function == "load_data (data.py:4)"
    assert [(frame.where, frame.line) for frame in stack.frames] == [(str(tmp_path / "data.py"), 4), ("cell", 5)]
    leave(run)


def test_a_function_of_an_earlier_cell_is_named_with_that_cell(session: Session) -> None:
    session.run("import time\n\ndef wait_long():\n    time.sleep(60)", cell=3).wait()
    run = session.run("pass\nwait_long()", cell=4)
    stack = found(session, lines(2, 2, 2, 2))[0]
    assert stack.where is not None and stack.where.function == "wait_long (In[3]:4)"
    assert [(frame.where, frame.line) for frame in stack.frames] == [("In[3]", 4), ("cell", 2)]
    leave(run)


def test_the_line_of_an_await_is_found_in_the_coroutine(session: Session) -> None:
    run = session.run("import asyncio\nasync def pause():\n    await asyncio.sleep(60)\n\nawait pause()")
    stack = found(session, lines(3, 3, 3, 3))[0]
    assert stack.where is not None and stack.where.function == "pause"
    leave(run)


def test_a_rank_that_holds_the_gil_is_told_of_in_time(session: Session) -> None:
    session.run(BEFORE).wait(60)
    run = session.run("if rank == 3: ctypes.PyDLL(None).sleep(4)\ndist.barrier()")
    waits = "does not answer: C code waits and holds the GIL"
    stacks = found(session, lambda stacks: stacks[3].silent == waits and lines(2, 2, 2)(stacks[:3]))
    assert stacks[3].where is None
    began = time.monotonic()
    assert session.stacks()[3].where is None
    assert time.monotonic() - began < 0.2
    run.wait(30)
    assert found(session, lambda stacks: not stacks[3].silent)[3].state == "done"


def test_a_look_at_a_rank_stops_nothing_though_garbage_is_collected_meanwhile() -> None:
    done = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_stopped_rank_is_told_of_as_stopped(session: Session) -> None:
    pid = session.ready().status().ranks[2].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        # The system stops a process a moment after os.kill has returned: until then the rank may still answer.
        wanted = ["", "", "is stopped (SIGSTOP)", ""]
        found(session, lambda stacks: [stack.silent for stack in stacks] == wanted)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert found(session, lambda stacks: not stacks[2].silent)


# ---- ranks that wait for others, in the cell's own output ------------------------------------------------------------


@pytest.mark.kernel
def test_a_cell_says_who_waits_for_whom_and_another_kernel_sees_where_everyone_is(book: Notebook) -> None:
    book.run(FOUR.rstrip() + " --session watched\n" + BEFORE)
    began = time.monotonic()
    sent = book.send(
        FOUR + "def prepare():\n    time.sleep(60)\n\nif rank == 2: prepare()\ndist.all_reduce(torch.ones(1))"
    )
    shown = book.wait_for(sent, "ranks 0-1,3 have waited", began).stderr  # at once, or when the last of them has come
    assert re.search(r"ranks 0-1,3 have waited (up to )?\d+ s in all_reduce #", shown)
    assert "(cell line 6); rank 2 is not there: it is at cell line 3, in prepare\n" in shown
    with notebook() as other:
        other.run("%load_ext modal_magic")
        # A rank that has no processor just then does not answer in time.
        waits, alone = "ranks 0-1,3: running, in all_reduce #", "rank 2: running, at cell line 3"
        seen = until(lambda: told if waits in (told := other.run(STACK).stdout) else "")
        chosen = until(lambda: told if alone in (told := other.run(f"{STACK} --rank 2 --all-frames").stdout) else "")
    assert " (default group), cell line 6, for " in seen
    assert "rank 2: running, at cell line 3, in prepare\n    cell line 3, in prepare\n    cell line 5" in seen
    assert chosen.startswith(alone) and "all_reduce" not in chosen
    book.manager.interrupt_kernel()
    assert book.collect(sent, began).error_name == "RunInterrupted"
    told = re.findall(r"^ranks? ([\d,-]+):", book.run("%modal_stack").stdout, re.MULTILINE)
    assert sorted(rank for ranks in told for rank in parse_ranks(ranks, 4)) == [0, 1, 2, 3]  # wherever each of them is


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("if rank == 3: sys.exit()\ndist.barrier()", "rank 3 is not there: it has left the cell by sys.exit"),
        ("ddp(torch.ones(1, 2)).sum().backward() if rank else time.sleep(60)", "in backward (DDP)"),
        (
            "import os, signal\nif rank == 2: os.kill(os.getpid(), signal.SIGSTOP)",
            "ranks 0-1,3 have finished the cell; rank 2 has not: it is stopped (SIGSTOP)",
        ),
    ],
)
def test_what_the_others_wait_for_is_said(book: Notebook, source: str, said: str) -> None:
    book.run(FOUR + BEFORE)
    began = time.monotonic()
    sent = book.send(FOUR + source)
    book.wait_for(sent, said, began)
    book.manager.interrupt_kernel()
    assert book.collect(sent, began).error_name == "RunInterrupted"


@pytest.mark.kernel
def test_nothing_is_said_of_a_long_computation(book: Notebook) -> None:
    book.run(FOUR + BEFORE)
    shown = book.run(
        FOUR + "until = time.time() + 8\nwhile time.time() < until: torch.ones(9, 9) @ torch.ones(9, 9)\ndist.barrier()"
    )
    assert (shown.stdout, shown.stderr, shown.error) == ("", "", "")
