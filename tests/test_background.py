"""Runs in the background, in a real kernel: the notebook goes on, the output comes, the end is told once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from modal_magic import RankFailed, RunInterrupted, Session, SessionClosed, registry
from modal_magic.sessions.run import Run
from tests.support.notebook import Notebook, Shown, notebook
from tests.support.processes import gone, ours

TWO = "%%modal_distributed --replicas 2 --backend local --framework none --background --handle training\n"


def waiting_for(path: Path) -> str:
    """A cell that goes on until there is such a file."""
    return (
        "import pathlib, time\nprint('begun', flush=True)\n"
        f"while not pathlib.Path({str(path)!r}).exists(): time.sleep(0.01)\n"
    )


def until(book: Notebook, sent: str, shown: Shown, text: str) -> None:
    """Read on in the output of a cell that may be over, until it has this text."""
    began = time.monotonic()
    while text not in shown.stdout + shown.stderr:
        message = book.client.get_iopub_msg(timeout=max(0.1, began + 30 - time.monotonic()))
        if message["parent_header"].get("msg_id") == sent:
            book.take(shown, message, 0.0)


def start(book: Notebook, source: str) -> tuple[str, Shown]:
    """Send a cell to the background: its message, and what it had shown when the kernel was free again."""
    sent = book.send(TWO + source)
    return sent, book.collect(sent, time.monotonic())


@pytest.mark.kernel
def test_the_notebook_goes_on_while_a_run_is_shown_below_its_own_cell(book: Notebook, tmp_path: Path) -> None:
    sent, shown = start(book, waiting_for(tmp_path / "go") + "print('released')\nrank * 2")
    assert not shown.error
    until(book, sent, shown, "[rank 0] begun")
    until(book, sent, shown, "[rank 1] begun")
    assert book.run("print(training.done, training.status, _ is training)").stdout == "False running True\n"
    (tmp_path / "go").touch()
    until(book, sent, shown, " is done after ")
    assert [line for line in shown.lines if "released" in line] == ["[rank 0] released", "[rank 1] released"]
    assert "[rank 1] 2" in shown.lines
    assert shown.stdout.count(" is done after ") == 1
    again = book.run("print(training.wait().result)\nprint(training)\nprint(training.output)")
    assert again.stdout.startswith("{0: '0', 1: '2'}\n<run ")
    assert "on ranks 0-1: done after " in again.stdout
    assert "[rank 1] begun\n[rank 1] released\n[rank 1] 2" in "\n".join(
        line for line in again.stdout.splitlines() if line.startswith("[rank 1]")
    )
    after = book.run("%%modal_distributed\nprint('next')")
    assert after.lines == ["[rank 0] next", "[rank 1] next"]


@pytest.mark.kernel
def test_the_failure_of_a_run_in_the_background_shows_below_its_cell_and_is_raised_by_wait(
    book: Notebook, tmp_path: Path
) -> None:
    sent, shown = start(book, waiting_for(tmp_path / "go") + "if rank == 1: 1 / 0")
    (tmp_path / "go").touch()
    until(book, sent, shown, "kept on all ranks")
    assert "rank 1 raised ZeroDivisionError: division by zero at cell line 5" in shown.stderr
    assert "[rank 1]" in shown.stderr and "Traceback (most recent call last)" in shown.stderr
    failed = book.run("training.wait()")
    assert failed.error_name == "RankFailed"
    assert failed.error.startswith("rank 1 raised ZeroDivisionError")
    assert not book.run("%%modal_distributed\nprint('next')").error


@pytest.mark.kernel
def test_a_cell_behind_a_run_in_the_background_waits_and_says_so(book: Notebook, tmp_path: Path) -> None:
    sent, shown = start(book, waiting_for(tmp_path / "go"))
    until(book, sent, shown, "[rank 0] begun")
    began = time.monotonic()
    second = book.send("%%modal_distributed\nprint('second')")
    book.wait_for(second, "waiting for 1 run of this session", began)
    (tmp_path / "go").touch()
    assert book.collect(second, began).lines == ["[rank 0] second", "[rank 1] second"]


@pytest.mark.kernel
def test_a_queued_run_in_the_background_says_what_takes_it_out_and_then_that_nothing_of_it_ran(
    book: Notebook, tmp_path: Path
) -> None:
    sent, shown = start(book, waiting_for(tmp_path / "go"))
    until(book, sent, shown, "[rank 0] begun")
    second = book.send("%%modal_distributed --background --handle later\nprint('second')")
    behind = book.collect(second, time.monotonic())
    until(book, second, behind, "waiting for 1 run of this session; later.interrupt() takes this cell out again")
    book.send("later.interrupt()")
    until(book, second, behind, "the run was taken out of the queue before it began; nothing of it ran")
    (tmp_path / "go").touch()
    assert not book.run("training.wait()").error


@pytest.mark.kernel
@pytest.mark.parametrize("how", ["%modal_interrupt", "training.interrupt()"])
def test_a_run_in_the_background_can_be_interrupted(book: Notebook, tmp_path: Path, how: str) -> None:
    sent, shown = start(book, "kept = rank\n" + waiting_for(tmp_path / "never"))
    until(book, sent, shown, "[rank 0] begun")
    until(book, sent, shown, "[rank 1] begun")
    asked = book.send(how)
    until(book, sent, shown, "variables are kept on all ranks")
    assert "the run was interrupted" in shown.stderr
    assert asked
    assert book.run("%%modal_distributed\nprint(kept)").lines == ["[rank 0] 0", "[rank 1] 1"]


@pytest.mark.kernel
def test_an_idle_session_warns_below_the_last_cell_while_nothing_runs(fresh_book: Notebook) -> None:
    head = "%%modal_distributed -n 2 --backend local --framework none --idle 1.2s --session resting\n"
    sent = fresh_book.send(head + "pass")
    shown = fresh_book.collect(sent, time.monotonic())
    until(fresh_book, sent, shown, "this session ends in 0.2s unless a cell runs")
    while "resting" in fresh_book.run("%modal_status").stdout:
        pass
    shown = fresh_book.run("%%modal_distributed\nprint(world_size)")
    assert "is closed: it had no run for 1.2s (--idle). A new session like it is started" in shown.stdout


@pytest.mark.kernel
@pytest.mark.parametrize("restart", [False, True])
def test_a_session_may_end_with_its_kernel_but_not_when_that_is_restarted(runtime_folder: Path, restart: bool) -> None:
    before = {process.pid for process in ours(str(runtime_folder))}
    with notebook() as book:
        book.run("%load_ext modal_magic")
        book.run("%%modal_distributed -n 2 --backend local --session bound --end-with-kernel\nkept = rank")
        if not restart:
            book.manager.shutdown_kernel()
            left = [process.pid for process in ours(str(runtime_folder)) if process.pid not in before]
            assert gone(left)
            assert "bound" not in registry.names()
            return
        book.manager.restart_kernel()
        book.client.wait_for_ready(timeout=60)
        book.run("%load_ext modal_magic")
        assert book.run("%%modal_distributed --session bound\nprint(kept)").lines == ["[rank 0] 0", "[rank 1] 1"]
        book.run("%modal_stop bound")


@pytest.mark.kernel
def test_a_session_ends_with_its_kernel_also_while_a_cell_runs(runtime_folder: Path) -> None:
    before = {process.pid for process in ours(str(runtime_folder))}
    with notebook() as book:
        book.run("%load_ext modal_magic")
        head = "%%modal_distributed -n 2 --backend local --end-with-kernel\n"
        began = time.monotonic()
        sent = book.send(head + "print('begun', flush=True)\nimport time\ntime.sleep(1000)")
        book.wait_for(sent, "[rank 1] begun", began)
        book.manager.shutdown_kernel()
        assert gone([process.pid for process in ours(str(runtime_folder)) if process.pid not in before])


def test_the_handle_says_how_the_run_stands(session: Session) -> None:
    run = session.run("import time\nprint('here', flush=True)\ntime.sleep(1000)")
    while "[rank 3] here\n" not in run.output:
        run.events(30)
    assert repr(run) == f"<run {run.id} of session {session.name!r} on ranks 0-3: running>"
    assert not run.done
    run.interrupt()
    with pytest.raises(RunInterrupted):
        run.wait(10)
    assert run.done and "interrupted after" in repr(run)
    failed = session.run("1 / 0", ranks=[2])
    with pytest.raises(RankFailed):
        failed.wait(30)
    assert repr(failed).endswith(": rank 2 raised ZeroDivisionError: division by zero at cell line 1>")
    cut = Run(session, "cut")
    cut.give_up(SessionClosed("session 'train' was stopped"))
    assert repr(cut) == f"<run cut of session {session.name!r}: failed: session 'train' was stopped>"
    again = session.run("print('x')\nrank + 1", ranks=[0, 2]).wait(30)
    assert again.result == {0: "1", 2: "3"}
    assert sorted(again.output.splitlines()) == ["[rank 0] 1", "[rank 0] x", "[rank 2] 3", "[rank 2] x"]
