"""A session outlives its kernels: what another one is shown of it, and who may interrupt."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modal_magic import Session, registry
from modal_magic import protocol as p
from modal_magic.errors import RankFailed, RunInterrupted, SessionError, UsageError
from modal_magic.notebook.attaching import is_deserted, name_others, refuse_for, to_return_to
from modal_magic.options import resolve
from modal_magic.sessions.resources import Resources
from modal_magic.sessions.run import Run
from modal_magic.view.failure import strip_colours
from tests.support.clients import plain, resources_of_its_own
from tests.support.eventually import held, until
from tests.support.notebook import Notebook, notebook
from tests.support.processes import gone

__all__ = ["plain"]

IN_TWO_PARTS = """\
import pathlib, time
for number in range(20):
    print("line", number)
print("half", end="", flush=True)
while not pathlib.Path({path!r}).exists():
    time.sleep(0.02)
print(" a line")
for number in range(20, 40):
    print("line", number)
"""
"""Prints, waits for a file, and prints the rest."""
FIRST, REST = [f"line {number}" for number in range(20)], [f"line {number}" for number in range(20, 40)]


def of_rank(text: str, rank: int) -> list[str]:
    """The lines that a notebook shows of a rank."""
    label = f"[rank {rank}] "
    return [line.removeprefix(label) for line in text.splitlines() if line.startswith(label)]


def unseen(name: str) -> Run:
    """The one run that a new client is told of."""
    with resources_of_its_own() as other:
        session = Session.attach(name, other)
        [run] = session.unseen()
        return run


def kill(book: Notebook) -> None:
    """End a kernel as a crash would."""
    pid = int(book.manager.provisioner.pid)  # type: ignore[union-attr]
    os.kill(pid, signal.SIGKILL)
    assert gone([pid])


# ---- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.kernel
@pytest.mark.parametrize("end", [kill, lambda book: book.manager.restart_kernel()], ids=["crash", "restart"])
def test_another_kernel_is_shown_what_the_first_one_missed_once_and_in_order(
    tmp_path: Path, resources: Resources, nothing_left: None, end: Callable[[Notebook], None]
) -> None:
    go = tmp_path / "go"
    file = str(tmp_path / "a.ipynb")
    with notebook(file) as first:
        first.run("%load_ext modal_magic")
        first.run("%modal_distributed --replicas 2 --backend local --framework none")
        sent = first.send("%%modal_distributed\nkept = rank\n" + IN_TWO_PARTS.format(path=str(go)))
        shown = first.wait_for(sent, "[rank 0] line 19", time.monotonic()).stdout
        while "[rank 1] line 19" not in shown:
            shown += first.wait_for(sent, "line 19", time.monotonic()).stdout
        assert of_rank(shown, 0) == of_rank(shown, 1) == FIRST
        name = registry.names()[-1]
        watching = Session.attach(name, resources)
        until(lambda: all(rank.output == "half" for rank in unseen(name).ranks.values()))
        end(first)
    until(lambda: watching.status().clients == 1)
    watching.detach()
    with notebook(file) as second:
        second.run("%load_ext modal_magic")
        refused = second.run("%%modal_distributed\nprint('not here')")
        assert refused.error_name == "UsageError"
        assert f"%modal_attach {name} brings it back" in refused.error
        sent = second.send("%modal_attach")
        second.wait_for(sent, "goes on", time.monotonic())
        go.touch()
        shown = second.collect(sent, time.monotonic())
        assert of_rank(shown.stdout, 0) == of_rank(shown.stdout, 1) == ["half a line", *REST]
        assert second.run("%%modal_distributed\nkept").lines == ["[rank 0] 0", "[rank 1] 1"]
        assert "nothing was missed" in second.run("%modal_attach").stdout
        second.run("%modal_stop")


@pytest.mark.kernel
def test_what_ended_while_no_kernel_was_there_is_shown_with_its_failure(
    tmp_path: Path, resources: Resources, nothing_left: None
) -> None:
    go = tmp_path / "go"
    source = IN_TWO_PARTS.format(path=str(go)) + "\nif rank == 1:\n    raise ValueError('at the end')\n"
    with notebook() as first:
        first.run("%load_ext modal_magic")
        first.run("%modal_distributed --replicas 2 --backend local --framework none --session night")
        sent = first.send("%%modal_distributed\n" + source)
        first.wait_for(sent, "line 19", time.monotonic())
        kill(first)
    watching = Session.attach("night", resources)
    [run] = watching.unseen()
    go.touch()
    assert run.settled(20)
    watching.detach()
    with notebook() as second:
        second.run("%load_ext modal_magic")
        shown = second.run("%modal_attach night")
        assert "The run of In[3] has ended since" in shown.stdout
        assert of_rank(shown.stdout, 0)[-20:] == REST
        assert shown.error_name == "RankFailed" and "rank 1 raised ValueError: at the end" in shown.error
        assert "if rank == 1:" in strip_colours(shown.traceback)
        assert second.run("%%modal_distributed\nnumber").lines == ["[rank 0] 39", "[rank 1] 39"]
        second.run("%modal_stop")


@pytest.mark.kernel
def test_two_kernels_share_a_session_and_each_may_interrupt(resources: Resources, nothing_left: None) -> None:
    forever = "import time\nprint('begun')\nwhile True:\n    time.sleep(0.05)"
    with notebook() as first, notebook() as second:
        first.run("%load_ext modal_magic")
        second.run("%load_ext modal_magic")
        first.run("%modal_distributed --replicas 2 --backend local --framework none --session shared")
        began = time.monotonic()
        running = first.send(f"%%modal_distributed\n{forever}")
        first.wait_for(running, "begun", began)
        waiting = second.send("%%modal_distributed --session shared\nprint('mine')")
        second.wait_for(waiting, "waiting for 1 run of this session", time.monotonic())
        second.manager.interrupt_kernel()
        left = second.collect(waiting, time.monotonic())
        assert left.error_name == "RunInterrupted" and "mine" not in left.stdout
        assert "nothing of it ran" in left.error
        assert "2 kernels attached" in second.run("%modal_status --session shared").stdout
        second.run("%modal_interrupt")
        assert first.collect(running, began).error_name == "RunInterrupted"
        assert second.run("%%modal_distributed\nrank").lines == ["[rank 0] 0", "[rank 1] 1"]
        kill(first)
        until(lambda: "1 kernel attached" in second.run("%modal_status").stdout, 10.0)
        second.run("%modal_stop")


@pytest.mark.kernel
def test_a_kernel_that_was_stopped_for_long_goes_on_where_it_was(resources: Resources, nothing_left: None) -> None:
    source = "import time\nfor number in range(60):\n    print('line', number)\n    time.sleep(0.1)"
    with notebook() as book:
        book.run("%load_ext modal_magic")
        pid = int(book.run("import os; print(os.getpid())").stdout)
        book.run("%modal_distributed --replicas 2 --backend local --framework none")
        began = time.monotonic()
        sent = book.send(f"%%modal_distributed\n{source}")
        before = book.wait_for(sent, "line 3", began).stdout
        with held(pid):
            threading.Event().wait(4.5)  # longer than a gateway waits for a client
        shown = before + book.collect(sent, began).stdout
        assert of_rank(shown, 0) == of_rank(shown, 1) == [f"line {number}" for number in range(60)]
        book.run("%modal_stop")


# ---- which session is meant ------------------------------------------------------------------------------------------


def test_a_line_that_names_no_session_is_refused_where_its_notebook_has_left_one(
    resources: Resources, nothing_left: None
) -> None:
    mine, other = "/home/me/mine.ipynb", "/home/me/other.ipynb"
    with pytest.raises(UsageError, match="there is no session to attach to"):
        to_return_to(resources, mine)
    options = resolve({"backend": "local", "framework": "none"})
    first = Session.start(resources, options, mine).ready()
    refuse_for(resources, mine, attended=True)  # a kernel is attached: it is in use
    first.detach()
    with pytest.raises(UsageError, match=rf"^session '{first.name}' of this notebook is still up, .* no kernel: "):
        refuse_for(resources, mine, attended=False)
    beside = name_others(resources, mine, registry.living())
    assert f"{first.name} of this notebook is still up, without a kernel" in beside and "NAME" not in beside
    assert name_others(resources, other, registry.living()).endswith(f"%modal_stop NAME ends it: {first.name}")
    refuse_for(resources, other, attended=True)
    refuse_for(resources, "", attended=False)  # nobody says which notebook it is, and nobody could
    with pytest.raises(UsageError, match=rf"^session '{first.name}' is still up, .* no kernel: "):
        refuse_for(resources, "", attended=True)
    second = Session.start(resources, options, other).ready()
    assert to_return_to(resources, mine) == first.name
    assert to_return_to(resources, other) == second.name
    assert to_return_to(resources, "") == first.name  # the other one has a kernel
    second.detach()
    with pytest.raises(UsageError, match=f"name one of them: {first.name}, {second.name}$"):
        to_return_to(resources, "")
    for name in (first.name, second.name):
        Session.attach(name, resources).stop()


def test_looking_at_a_session_does_not_keep_it(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, session="watched", backend="local", framework="none").ready()
    session.detach()
    watcher = Session.attach("watched", resources, watches=True)
    until(lambda: watcher.status().lease_left is not None)
    before = watcher.status().lease_left
    with notebook() as book:
        book.run("%load_ext modal_magic")
        assert "watched: ready" in book.run("%modal_status --session watched").stdout
        assert "rank 0" in book.run("%modal_stack --session watched").stdout
        assert book.run("%modal_logs --session watched").error == ""
        assert is_deserted("watched", resources)
        after = watcher.status()
        assert after.clients == 0
        assert before is not None and after.lease_left is not None and after.lease_left <= before
        book.run("%modal_stop watched")
    watcher.detach()


def test_a_session_whose_connection_cannot_be_written_is_not_left_running(
    resources: Resources, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(connection: registry.Connection) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry, "publish", full)
    with pytest.raises(OSError, match="No space left"):
        Session(resources=resources, session="full", backend="local", framework="none")
    assert not registry.folder_of("full").exists()


# ---- clients ---------------------------------------------------------------------------------------------------------


def test_a_run_that_another_client_found_fails_there_too(plain: Session, tmp_path: Path) -> None:
    go = tmp_path / "go"
    run = plain.run(IN_TWO_PARTS.format(path=str(go)) + "\n1 / rank")
    until(lambda: len(run.ranks) == 2 and all("half" in rank.output for rank in run.ranks.values()))
    with resources_of_its_own() as other:
        session = Session.attach(plain.name, other)
        [found] = session.unseen()
        assert found.status == "running"
        go.touch()
        for one in (run, found):
            with pytest.raises(RankFailed, match="rank 0 raised ZeroDivisionError"):
                one.wait(20)
        assert found.ranks[0].output == run.ranks[0].output
        assert session.unseen() == []
    with resources_of_its_own() as third:
        assert Session.attach(plain.name, third).unseen() == []


@pytest.mark.parametrize(
    "limits", [{"timeout": float("nan")}, {"timeout": -1.0}, {"retries": 11}, {"retries": p.Retries(1, float("inf"))}]
)
def test_limits_that_make_no_sense_are_refused_before_anything_is_sent(plain: Session, limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"^Session\.run: "):
        plain.run("1", **limits)
    assert plain.idle


def test_any_client_may_interrupt_a_run(plain: Session) -> None:
    run = plain.run("import time; time.sleep(1000)")
    until(lambda: run.status == "running")
    with resources_of_its_own() as other:
        [found] = Session.attach(plain.name, other).unseen()
        found.interrupt()
        for one in (run, found):
            with pytest.raises(RunInterrupted):
                one.wait(10)


def test_a_client_that_dies_is_soon_not_counted_any_more(plain: Session) -> None:
    with resources_of_its_own() as other:
        Session.attach(plain.name, other)
        assert plain.status().clients == 2
        other.links.close()  # no last word is said
        until(lambda: plain.status().clients == 1, 10.0)


def test_an_interrupt_of_a_run_that_nobody_knows_is_answered(plain: Session) -> None:
    stray = Run(plain, "stray")
    plain._runs.begin(stray)
    stray.interrupt()
    with pytest.raises(UsageError, match="the session knows no such run"):
        stray.wait(10)


def test_an_answer_that_is_said_twice_is_taken_once(plain: Session) -> None:
    plain._client._conversation.on_reply = twice(plain._client._conversation.on_reply)
    plain.restart([1])
    assert plain.status().clients == 1
    with pytest.raises(UsageError, match="there is no rank 9"):
        plain.restart([9])
    assert plain.run("rank").wait(10).ranks[1].result == "1"


def twice(take: Callable[[p.Reply], None]) -> Callable[[p.Reply], None]:
    return lambda reply: (take(reply), take(reply))[1]


def stumble(record: p.Record) -> None:
    raise ValueError(f"record {record.sequence} is not to my taste")


def test_a_message_that_cannot_be_read_costs_one_session_and_no_other(plain: Session, resources: Resources) -> None:
    with Session(resources=resources, backend="local", framework="none") as other:
        other.ready()
        run = other.run("import time; time.sleep(1000)")
        plain._client._conversation.on_record = stumble
        plain.run("1")
        until(lambda: plain.closed)
        assert not other.closed
        other.interrupt()
        with pytest.raises(RunInterrupted):
            run.wait(10)
    with pytest.raises(SessionError, match=r"is not to my taste.* The session itself goes on: %modal_attach"):
        plain.status()
    again = Session.attach(plain.name, resources)
    assert again.run("rank").wait(10).ranks[1].result == "1"
    again.stop()


def test_views_see_a_run_that_stands_still(plain: Session) -> None:
    run = Run(plain, "seen")
    take = threading.Thread(target=lambda: run.take(p.Submitted("seen", [0, 1], 1, ""), 1.0))
    draw = threading.Thread(target=run.snapshot)
    with run.still() as view:
        for thread in (take, draw):
            thread.start()
        take.join(0.2)
        assert take.is_alive() and draw.is_alive() and not view.ranks
    for thread in (take, draw):
        thread.join(5)
    assert sorted(run.ranks) == [0, 1]
