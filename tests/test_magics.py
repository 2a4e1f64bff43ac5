"""The magics in a real kernel: what a user types and what the notebook then shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modal_magic import registry
from modal_magic.ranges import parse_ranks
from tests.conftest import STOP_OWN
from tests.support.eventually import until
from tests.support.notebook import Notebook, notebook

pytestmark = pytest.mark.kernel

FOUR = "%%modal_distributed --replicas 4 --backend local\n"


@pytest.fixture(scope="module")
def shapes(runtime_folder: Path) -> Iterator[Notebook]:
    """A kernel for sessions of any shape: each test names its own."""
    with notebook() as opened:
        opened.run("%load_ext modal_magic")
        yield opened
        opened.run(STOP_OWN)


def test_a_cell_runs_on_four_ranks_and_each_line_is_labelled(book: Notebook) -> None:
    shown = book.run(FOUR + "print('hello from', rank, 'of', world_size)")
    assert shown.lines == [f"[rank {rank}] hello from {rank} of 4" for rank in range(4)]
    assert not shown.error


def test_a_cell_without_options_goes_to_the_current_session_and_finds_its_variables(book: Notebook) -> None:
    book.run(FOUR + "kept = rank * 2")
    assert book.run("%%modal_distributed\nprint(kept)").lines == [f"[rank {rank}] {rank * 2}" for rank in range(4)]


def test_the_last_expression_shows_with_its_rank(book: Notebook) -> None:
    assert book.run(FOUR + "rank + 0.5").lines == [f"[rank {rank}] {rank}.5" for rank in range(4)]


def test_a_cell_on_some_ranks_and_output_of_some(book: Notebook) -> None:
    assert book.run(FOUR.strip() + " --ranks 0,2-3\nprint('here')").lines == [
        "[rank 0] here",
        "[rank 2] here",
        "[rank 3] here",
    ]
    assert book.run(FOUR.strip() + " --show 1\nprint('shown')").lines == ["[rank 1] shown"]
    assert "[rank 3] shown" in book.run("%modal_logs").stdout


def test_logs_can_be_narrowed(book: Notebook) -> None:
    book.run(FOUR + "for i in range(5): print('line', i)")
    assert book.run("%modal_logs --rank 2 --last 2").stdout == "[rank 2] line 3\n[rank 2] line 4\n"


def test_figures_and_html_are_labelled_with_their_rank(book: Notebook) -> None:
    shown = book.run(FOUR.strip() + " --ranks 1\nfrom IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))")
    assert shown.stdout == "[rank 1]\n"
    assert shown.displays[0]["text/html"] == "<b>x</b>"


def test_what_a_rank_prints_and_displays_keeps_its_order(book: Notebook) -> None:
    book.run(FOUR.strip() + " --ranks 0\npass")
    for _ in range(5):
        shown = book.run(
            "%%modal_distributed --ranks 0\n"
            "for e in range(3): print('epoch', e); display(f'table {e}'); print('done', e)\nprint('rest', end='')\n1"
        )
        told = [line for e in range(3) for line in (f"epoch {e}", f"'table {e}'", f"done {e}")]
        assert shown.stdout.splitlines() == [f"[rank 0] {line}" for line in (*told, "rest", "1")]


def test_stderr_goes_to_stderr(book: Notebook) -> None:
    shown = book.run(FOUR + "import sys\nif rank == 0: print('careful', file=sys.stderr)")
    assert shown.stderr == "[rank 0] careful\n"


def test_the_line_form_only_starts_or_says(book: Notebook) -> None:
    assert re.fullmatch(r"session-\d+: 4 ranks, ready\n", book.run("%modal_distributed -n 4 --backend local").stdout)


def test_help_is_made_from_the_options(book: Notebook) -> None:
    text = book.run("print(get_ipython().find_line_magic('modal_distributed').__doc__)").stdout
    assert "--replicas" in text and "--nproc-per-node" in text and "nodes of the session" in text


def test_another_shape_is_refused_with_both_shapes_and_two_ways_on(book: Notebook) -> None:
    book.run(FOUR + "precious = 1")
    shown = book.run("%%modal_distributed --replicas 2\nprint(1)")
    assert shown.error_name == "UsageError"
    for part in ("--replicas 4", "--replicas 2", "--restart", "--session NAME"):
        assert part in shown.error
    assert book.run("%%modal_distributed --ranks 0\nprint(precious)").stdout == "[rank 0] 1\n"


def test_a_second_session_stands_beside_the_first(book: Notebook) -> None:
    book.run(FOUR + "x = 'first'")
    first = book.run("%modal_status").stdout.split(":")[0]
    book.run("%%modal_distributed --session other --replicas 2 --backend local --framework none\nx = 'second'")
    assert book.run("%%modal_distributed --session other\nprint(x)").lines == [f"[rank {i}] second" for i in (0, 1)]
    assert book.run(f"%%modal_distributed --session {first} --ranks 0\nprint(x)").stdout == "[rank 0] first\n"
    both = book.run("%modal_status").stdout
    assert f"{first}: ready" in both and "other: ready" in both
    assert book.run("%modal_stop other").stdout == "other is stopped\n"
    assert "other" not in book.run("%modal_status").stdout


def test_restart_gives_fresh_ranks_of_the_same_or_of_another_shape(shapes: Notebook) -> None:
    shapes.run(FOUR.strip() + " --session fresh\nkept = 1")
    assert "4 fresh ranks, ready" in shapes.run("%modal_restart").stdout
    assert shapes.run("%%modal_distributed --ranks 0\nprint('kept' in globals())").stdout == "[rank 0] False\n"
    shapes.run("%%modal_distributed\nkept = 1")
    shapes.run("%%modal_distributed --restart\npass")
    assert shapes.run("%%modal_distributed --ranks 0\nprint('kept' in globals())").stdout == "[rank 0] False\n"
    shown = shapes.run("%%modal_distributed --restart --replicas 2\nprint(world_size)")
    assert shown.lines == ["[rank 0] 2", "[rank 1] 2"], shown
    assert shapes.run("%%modal_distributed --ranks 1\nimport torch.distributed as d\nprint(d.get_world_size())").stdout


def test_auto_says_in_one_line_that_it_runs_here(fresh_book: Notebook) -> None:
    shown = fresh_book.run("%%modal_distributed\nprint(rank)")
    first, second = shown.stdout.splitlines()
    assert "No Modal token" in first and "--backend local" in first
    assert second == "[rank 0] 0"
    assert fresh_book.run("%%modal_distributed\nprint(rank)").stdout == "[rank 0] 0\n"


def test_gpu_without_one_runs_on_the_cpu_and_says_so(shapes: Notebook) -> None:
    shown = shapes.run("%%modal_distributed --gpu A100:2 --backend local --session gpus\nprint(device, world_size)")
    assert [line for line in shown.lines if line.startswith("[rank")] == ["[rank 0] cpu 2", "[rank 1] cpu 2"]
    assert [line for line in shown.lines if "CPU instead" in line], shown.stdout


def test_variables_of_the_environment_reach_the_ranks(shapes: Notebook) -> None:
    shown = shapes.run(
        "%%modal_distributed --backend local --session greeting --env GREETING=hello --env OMP_NUM_THREADS=2\n"
        "import os, torch\nprint(os.environ['GREETING'], torch.get_num_threads())"
    )
    assert shown.stdout == "[rank 0] hello 2\n"


def test_equal_lines_of_many_ranks_merge(shapes: Notebook) -> None:
    head = "%%modal_distributed --nproc-per-node 9 --backend local --framework none --session nine"
    assert shapes.run(f"{head}\nprint('same')").stdout == "[ranks 0-8] same\n"
    assert len(shapes.run(f"{head} --show all\nprint('same')").lines) == 9


def test_a_flood_ends_in_one_line_and_the_error_still_comes(book: Notebook) -> None:
    shown = book.run(FOUR.strip() + " --output-limit 200kB\nfor i in range(50000): print('x' * 40)\n1/0")
    assert len(shown.stdout) < 500_000
    cut = re.findall(
        r"… what ranks? ([\d,-]+) writes? from here on goes to the log alone \(--output-limit\)", shown.stderr
    )
    assert sorted(rank for ranks in cut for rank in parse_ranks(ranks, 4)) == [0, 1, 2, 3]
    assert re.fullmatch(r"… [\d.]+ MB more: %modal_logs --session session-\d+", shown.stdout.splitlines()[-1])
    assert shown.error_name == "RankFailed" and "ZeroDivisionError" in shown.error


def test_autoreload_of_local_modules_works_on_ranks(fresh_book: Notebook) -> None:
    fresh_book.run("import tempfile, os; os.chdir(tempfile.mkdtemp())")
    fresh_book.run("%%writefile local_module.py\nvalue = 1")
    run = "%%modal_distributed --backend local\n"
    fresh_book.run(run + "%load_ext autoreload\n%autoreload 2\nimport local_module\nprint(local_module.value)")
    fresh_book.run("%%writefile local_module.py\nvalue = 22222")
    assert fresh_book.run(run + "print(local_module.value)").stdout == "[rank 0] 22222\n"


def test_the_kernel_s_interrupt_reaches_the_ranks_and_keeps_variables(book: Notebook) -> None:
    book.run(FOUR + "precious = rank")
    import time

    began = time.monotonic()
    sent = book.send("%%modal_distributed\nprint('begun')\nimport time\nwhile True: time.sleep(0.01)")
    book.wait_for(sent, "[rank 3] begun", began)
    book.manager.interrupt_kernel()
    interrupted = time.monotonic()
    shown = book.collect(sent, began)
    assert shown.error_name == "RunInterrupted"
    assert "variables are kept on all ranks" in shown.error
    assert time.monotonic() - interrupted < 2
    assert book.run("%%modal_distributed\nprint(precious)").lines == [f"[rank {rank}] {rank}" for rank in range(4)]


def test_a_notebook_may_call_something_of_its_own_in(book: Notebook) -> None:
    book.run("In, cells = 5, In")
    shown = book.run("%%modal_distributed --replicas 4 --backend local --ranks 1\n1 / 0")
    book.run("In = cells")
    assert shown.error_name == "RankFailed"


INTERRUPT_AT = """
import importlib
room = importlib.import_module("modal_magic.{room}")
before = room.{name}
def interrupted(*_):
    room.{name} = before
    raise KeyboardInterrupt
room.{name} = interrupted
"""
"""The kernel's interrupt comes just where this function is called, once."""


def test_an_interrupt_before_a_run_is_followed_is_told_in_a_line_and_leaves_no_run_behind(shapes: Notebook) -> None:
    shapes.run(INTERRUPT_AT.format(room="notebook.sessions", name="settings_of"))
    started = shapes.run("%modal_distributed --session cut --backend local --framework none")
    assert started.error_name == "KeyboardInterrupt"
    assert shapes.run("%%modal_distributed\nsession = 'cut'").error == ""
    shapes.run(INTERRUPT_AT.format(room="notebook.magics", name="choose_picture"))
    shown = shapes.run("%%modal_distributed\nimport time; time.sleep(1000)")
    assert shown.error_name == "KeyboardInterrupt"
    assert shown.traceback == f"KeyboardInterrupt: {shown.error}" and "the run is interrupted too" in shown.error
    assert shapes.run("%%modal_distributed\nprint(session)").stdout == "[rank 0] cut\n"
    shapes.run(INTERRUPT_AT.format(room="sessions.session", name="numbers_of"))
    shown = shapes.run("%modal_restart")
    told = "interrupted while ranks were started anew: %modal_status shows them"
    assert shown.traceback == f"KeyboardInterrupt: {told}"
    shapes.run("%modal_stop cut")
    shapes.run(INTERRUPT_AT.format(room="backends.local", name="await_ready"))
    shown = shapes.run("%%modal_distributed --session cut --backend local --framework none\npass")
    told = "the start of the session was interrupted: nothing of it is left"
    assert shown.traceback == f"KeyboardInterrupt: {told}" and shown.error_name == "KeyboardInterrupt"
    assert "cut" not in shapes.run("%modal_status").stdout


def test_unloading_leaves_no_magic_and_no_thread(fresh_book: Notebook) -> None:
    fresh_book.run(FOUR + "pass")
    fresh_book.run("%modal_stop")
    fresh_book.run("%unload_ext modal_magic")
    names = fresh_book.run("import threading; print([t.name for t in threading.enumerate()])").stdout
    assert "modal_magic" not in names
    assert "not found" in fresh_book.run("%modal_status").stderr
    fresh_book.run("%load_ext modal_magic")
    assert not fresh_book.run("%modal_status").error


def test_a_notebook_keeps_its_session_when_the_magics_are_loaded_anew(fresh_book: Notebook) -> None:
    fresh_book.run("%%modal_distributed --replicas 2 --backend local --framework none --session kept\nx = rank")
    fresh_book.run("%reload_ext modal_magic")
    shown = fresh_book.run("%%modal_distributed\nprint(x)")
    assert shown.lines == ["[rank 0] 0", "[rank 1] 1"] and not shown.stderr
    fresh_book.run("%modal_stop")
    fresh_book.run("%reload_ext modal_magic")
    assert "this notebook has no session" in fresh_book.run("%modal_logs").error


def test_what_takes_the_place_of_a_session_that_was_stopped_has_its_shape_and_its_limits(shapes: Notebook) -> None:
    shapes.run("%%modal_distributed --replicas 2 --backend local --framework none --session mine --lease 2h\nx = 1")
    with notebook() as other:
        other.run("%load_ext modal_magic")
        assert other.run("%modal_stop mine").stdout == "mine is stopped\n"
    shown = shapes.run("%%modal_distributed\nprint(world_size, 'x' in globals())")
    assert "is closed: it was stopped. A new session like it is started" in shown.stdout
    assert [line for line in shown.lines if line.startswith("[rank")] == ["[rank 0] 2 False", "[rank 1] 2 False"]
    assert "lease of 2:00:00 not begun" in shapes.run("%modal_status").stdout
    shapes.run("%modal_stop")
    shown = shapes.run("%%modal_distributed\nprint(world_size)")
    assert "session 'mine' was stopped. A new session like it is started" in shown.stdout
    assert [line for line in shown.lines if line.startswith("[rank")] == ["[rank 0] 2", "[rank 1] 2"]
    assert "mine: ready" in (told := shapes.run("%modal_status").stdout) and "lease of 2:00:00 not begun" in told


INTERRUPTED_STOP = """import os, signal
from modal_magic.sessions.session import Session
finish = Session._finish
def interrupted(self, *given):
    Session._finish = finish
    os.kill(os.getpid(), signal.SIGINT)
    finish(self, *given)
Session._finish = interrupted
"""


def test_an_interrupt_of_a_stop_or_a_replacement_loses_no_shape(shapes: Notebook) -> None:
    shapes.run("%%modal_distributed --replicas 2 --backend local --framework none --session cut --lease 2h\nx = 1")
    for line, size in (("%modal_stop", 2), ("%%modal_distributed --restart --replicas 3\npass", 3)):
        shapes.run(INTERRUPTED_STOP)
        assert shapes.run(line).error.startswith("interrupted while cut was stopped")
        until(lambda: not registry.folder_of("cut").exists())
        shown = shapes.run("%%modal_distributed\nprint(world_size, 'x' in globals())")
        assert "session 'cut' was stopped. A new session like it is started" in shown.stdout
        assert f"[rank {size - 1}] {size} False" in shown.lines
        assert "cut: ready" in (told := shapes.run("%modal_status").stdout) and "lease of 2:00:00" in told
    shapes.run("%modal_stop")


def test_an_interrupt_of_a_start_loses_no_shape(fresh_book: Notebook) -> None:
    fresh_book.run("import os, signal, modal_magic.sessions.session as sessions\nplan_of = sessions.plan_of")
    fresh_book.run(
        "def cut(*given):\n  sessions.plan_of = plan_of; os.kill(os.getpid(), signal.SIGINT); return plan_of(*given)"
    )
    fresh_book.run("sessions.plan_of = cut")
    began = fresh_book.run("%%modal_distributed --replicas 2 --backend local --framework none --session begun\npass")
    assert began.error.startswith("the start of the session was interrupted")
    shown = fresh_book.run("%%modal_distributed\nprint(world_size)")
    assert "the start of a session was interrupted. A new session like it is started" in shown.stdout
    assert [line for line in shown.lines if line.startswith("[rank")] == ["[rank 0] 2", "[rank 1] 2"]


def test_a_kernel_that_attached_knows_the_limits_of_the_session(shapes: Notebook) -> None:
    line = "%%modal_distributed --replicas 2 --backend local --framework none --session known"
    shapes.run(f"{line} --lease 2h --idle 3h --max-lifetime 12h\nx = 1")
    with notebook() as other:
        other.run("%load_ext modal_magic")
        other.run("%modal_attach known")
        other.run("%modal_stop")
        assert "[rank 1] 2" in other.run("%%modal_distributed\nprint(world_size)").lines
        told = other.run("%modal_status").stdout
        assert (
            "known: ready" in told
            and "lease of 2:00:00" in told
            and "2:59:5" in told
            and "in any case in 11:59" in told
        )
        other.run("%modal_stop")


def test_a_session_that_is_up_takes_over_other_limits_and_what_has_no_effect_is_said(fresh_book: Notebook) -> None:
    start = "%%modal_distributed --backend local --framework none --lease 1h --idle 2h\npass"
    fresh_book.run(start)
    assert fresh_book.run(start).stdout == ""
    shown = fresh_book.run("%%modal_distributed --lease 2h --idle off --max-lifetime 12h --log-limit 2GB\nrank")
    name = shown.stdout.split(":")[0]
    assert shown.stdout == (
        f"{name}: --lease 2h --idle off --max-lifetime 12h from now on\n"
        f"--log-limit 2GB has no effect on {name}, which is up: %modal_stop {name}, then start it with that\n"
        "[rank 0] 0\n"
    )
    status = fresh_book.run("%modal_status").stdout
    assert "lease of 2:00:00 not begun" in status and "ends in any case in 11:59:" in status
    assert "without a run" not in status
    shown = fresh_book.run("%modal_distributed --ranks 0 --timeout 1h")
    assert "--ranks 0 --timeout 1h has no effect here: it is for cells" in shown.stdout
    fresh_book.run("import time; time.sleep(1)")
    assert "--max-lifetime can only be longer" in fresh_book.run("%modal_distributed --max-lifetime 1s").error
