"""Floods and strange output, in a real kernel: nothing is lost, nothing grows without bound, the end always shows."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from modal_magic import Session, registry
from modal_magic.protocol import SILENCE_SECONDS
from modal_magic.sessions.resources import Resources
from tests.support.notebook import Notebook, notebook
from tests.support.processes import described, gone, ours

pytestmark = pytest.mark.kernel

CELL = "%%modal_distributed\n"
START = (
    "%%modal_distributed --replicas 2 --backend local --framework none --session {}\nimport os, sys, threading, time"
)
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def talker(book: Notebook) -> Notebook:
    """A kernel with a session of two ranks without a process group, named `talker`."""
    assert not book.run(START.format("talker")).error
    return book


@contextmanager
def growth(*pids: int) -> Iterator[dict[int, int]]:
    """The most by which the resident memory of each of these processes grows, in bytes, known at the end."""
    processes = [psutil.Process(pid) for pid in pids]
    before = {process.pid: process.memory_info().rss for process in processes}
    most = dict.fromkeys(pids, 0)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for process in processes:
                most[process.pid] = max(most[process.pid], process.memory_info().rss - before[process.pid])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def test_a_flood_of_200_megabytes_takes_no_memory_and_all_of_it_is_in_the_log(talker: Notebook, tmp_path: Path) -> None:
    gateway = registry.read("talker").pid
    kernel = int(talker.run("import os; print(os.getpid())").stdout)
    with growth(gateway, kernel) as most:
        shown = talker.run(
            CELL + "for block in range(100):\n"
            "    sys.stdout.write(''.join(f'{block * 10000 + line:07} {\"x\" * 91}\\n' for line in range(10000)))\n"
            "'the value' if rank == 0 else 1 / 0"
        )
    assert most[gateway] < 150 * MEGABYTE and most[kernel] < 100 * MEGABYTE
    assert shown.error.startswith("rank 1 raised ZeroDivisionError: division by zero at cell line 4.")
    assert "[rank 0] 'the value'\n" in shown.stdout
    assert len(shown.stdout) < 12 * MEGABYTE
    assert shown.stdout.splitlines()[-1].endswith(" MB more: %modal_logs --session talker")
    flood = [line for line in shown.stdout.splitlines() if line.endswith("xxx")]
    for rank in range(2):
        own = [line.split()[2] for line in flood if line.startswith(f"[rank {rank}]")]
        assert own == [f"{number:07}" for number in range(len(own))]  # what is missing is the end, with no gap before

    path = tmp_path / "all.log"
    told = talker.run(f"%modal_logs --file {path}")
    assert told.stdout.startswith("2,000,0") and "written to" in told.stdout
    expected = [0, 0]
    text = path.read_text()
    for line in text.splitlines():
        if line.endswith("xxx"):
            rank = int(line[6])
            assert line[9:16] == f"{expected[rank]:07}"
            expected[rank] += 1
    assert expected == [1_000_000, 1_000_000]
    assert "[rank 0] Out: 'the value'\n" in text and "ZeroDivisionError" in text

    newest = talker.run("%modal_logs")
    assert "earlier lines" in newest.stdout.splitlines()[0] and "--file PATH writes all" in newest.stdout
    lines = set(newest.stdout.splitlines())
    assert {"[rank 0] Out: 'the value'"} <= lines
    assert any(f"[rank {rank}] 0999999 {'x' * 91}" in lines for rank in range(2))
    assert "ZeroDivisionError" in newest.stderr
    assert talker.run("%modal_logs --ranks 1 --last 2").stderr.count("[rank 1]") == 2


def test_the_gateway_answers_while_its_log_is_read(talker: Notebook, resources: Resources) -> None:
    asking = Session.attach("talker", resources)
    read_all: list[int] = []

    def read() -> None:
        other = Session.attach("talker")
        read_all.append(sum(len(line.text) + 1 for line in other.logs()))
        other.detach()

    readers = [threading.Thread(target=read) for _ in range(2)]
    waits = []
    try:
        asking.run("for _ in range(40): sys.stdout.write(('y' * 99 + '\\n') * 10000)", output_limit=1000).wait(30)
        for reader in readers:
            reader.start()
        while any(reader.is_alive() for reader in readers):
            began = time.monotonic()
            asking.status()
            waits.append(time.monotonic() - began)
            time.sleep(0.01)
    finally:
        for reader in readers:
            reader.join()
        asking.detach()
    assert read_all == [80 * MEGABYTE] * 2
    late = [wait for wait in waits if wait >= SILENCE_SECONDS]  # after that it would count as silent
    assert len(waits) > 3 and len(late) <= len(waits) // 20, late  # a machine that is busy may be late now and then


def test_a_line_of_50_megabytes_does_no_harm(talker: Notebook, tmp_path: Path) -> None:
    shown = talker.run(f"{CELL.strip()} --ranks 0\nprint('z' * 50_000_000)\nprint('after')\n'the value'")
    assert not shown.error and "[rank 0] 'the value'\n" in shown.stdout
    assert shown.stdout.splitlines()[-1].endswith(" MB more: %modal_logs --session talker")
    path = tmp_path / "line.log"
    assert not talker.run(f"%modal_logs --file {path}").error
    text = path.read_text()
    assert text.count("z") == 50_000_000 and text.endswith("[rank 0] after\n[rank 0] Out: 'the value'\n")
    assert talker.run(CELL + "rank").lines == ["[rank 0] 0", "[rank 1] 1"]


def test_what_is_no_text_is_shown_as_well_as_it_can_be(talker: Notebook) -> None:
    shown = talker.run(
        f"{CELL.strip()} --ranks 0\n"
        "for byte in b'\\xf0\\x9f\\x99\\x82':\n    os.write(1, bytes([byte])); time.sleep(0.05)\n"
        "os.write(1, b' cut\\n')\nprint('\\x1b[31mred\\x1b[0m')\nos.write(1, bytes(range(128, 256)) + b'\\0 junk\\n')\n"
        "sys.stdout.buffer.write(os.urandom(100_000)); print('\\nend')"
    )
    assert not shown.error
    assert "[rank 0] 🙂 cut\n" in shown.stdout and "[rank 0] \x1b[31mred\x1b[0m\n" in shown.stdout
    assert "\0 junk\n" in shown.stdout and shown.stdout.endswith("[rank 0] end\n")


def test_what_a_cell_leaves_running_is_heard_with_the_next_cell_and_in_the_log(talker: Notebook) -> None:
    shown = talker.run(
        f"{CELL.strip()} --ranks 1\nimport subprocess\n"
        "threading.Thread(target=lambda: (time.sleep(2), print('from a thread'))).start()\n"
        "child = subprocess.Popen(['sh', '-c', 'sleep 2; echo from a child'])\nprint('the end of the cell')"
    )
    assert shown.stdout == "[rank 1] the end of the cell\n"
    deadline = time.monotonic() + 60
    while not {"[rank 1] from a thread", "[rank 1] from a child"} <= set(talker.run("%modal_logs").lines):
        assert time.monotonic() < deadline
    shown = talker.run(CELL + "print('next')")
    first = shown.stdout.splitlines()
    assert sorted(first[:2]) == ["[rank 1] from a child", "[rank 1] from a thread"]
    assert sorted(first[2:]) == ["[rank 0] next", "[rank 1] next"]
    assert talker.run(CELL + "print('again')").lines == ["[rank 0] again", "[rank 1] again"]


def test_figures_and_values_behind_a_flood_arrive(talker: Notebook) -> None:
    shown = talker.run(
        f"{CELL.strip()} --output-limit 5MB\nfrom IPython.display import HTML, display\n"
        "print('before')\nif rank == 0: time.sleep(0.5)\nelse:\n    for _ in range(8000): print('w' * 1000)\n"
        "print('after')\n"
        "display(HTML(f'<b>{rank}</b>'))\nrank * 10"
    )
    assert {"[rank 0] before", "[rank 0] after"} <= set(shown.stdout.splitlines())  # whoever floods beside it
    assert "… what rank 1 writes from here on goes to the log alone (--output-limit)\n" in shown.stderr
    assert {data.get("text/html") for data in shown.displays} == {"<b>0</b>", "<b>1</b>"}
    assert {"[rank 0] 0", "[rank 1] 10"} <= set(shown.stdout.splitlines())
    assert " MB more: %modal_logs" in shown.stdout.splitlines()[-1]


def test_a_cell_that_closes_its_descriptors_takes_no_output_from_the_next(talker: Notebook) -> None:
    talker.run(f"{CELL}os.close(1); os.close(2)")
    shown = talker.run(f"{CELL}print('out')\nprint('err', file=sys.stderr, flush=True)\nos.system('echo child')")
    assert [shown.stdout.count(word) for word in ("out", "child")] == [2, 2], shown
    assert "err" in shown.stdout + shown.stderr


def test_debuggers_say_that_there_is_no_keyboard(talker: Notebook) -> None:
    for asked in ("%pdb on", "breakpoint()"):
        assert "so it cannot use a debugger at cell line 2" in talker.run(f"{CELL}{asked}").error


def test_warnings_and_log_records_of_ranks_name_the_cell(talker: Notebook) -> None:
    shown = talker.run(
        f"{CELL.strip()} --ranks 0\nimport inspect, logging, warnings\nwarnings.warn('careful')\n"
        "logging.basicConfig(format='%(filename)s line %(lineno)d', force=True)\nlogging.warning('x')\n"
        "def own(): pass\nprint(inspect.getsource(own))"
    )
    number = talker.run("print(len(In) - 2)").stdout.strip()
    assert f"[rank 0] Cell In[{number}]:3: UserWarning: careful\n" in shown.stderr
    assert f"[rank 0] Cell In[{number}] line 5\n" in shown.stderr
    assert "[rank 0] def own(): pass\n" in shown.stdout


def test_a_gateway_that_cannot_write_its_log_says_so_once_and_goes_on(talker: Notebook) -> None:
    gateway = psutil.Process(registry.read("talker").pid)
    before = gateway.rlimit(psutil.RLIMIT_FSIZE)
    gateway.rlimit(psutil.RLIMIT_FSIZE, (1000, before[1]))
    try:
        shown = talker.run(CELL + "print('as ever', rank)\n'value'")
        told = "the log of this session cannot be written (File too large)"
        assert (shown.stdout + shown.stderr).count(told) == 1
        assert {"[rank 0] as ever 0", "[rank 1] as ever 1", "[rank 0] 'value'", "[rank 1] 'value'"} <= set(shown.lines)
        assert {"[rank 0] as ever 0", "[rank 1] as ever 1"} <= set(talker.run("%modal_logs").lines)
        assert talker.run(CELL + "1").lines == ["[rank 0] 1", "[rank 1] 1"]
    finally:
        gateway.rlimit(psutil.RLIMIT_FSIZE, before)
    talker.run(CELL + "print('again')")
    assert talker.run("%modal_logs").lines == ["[rank 0] again", "[rank 1] again"]


def test_a_rank_that_prints_while_it_ends_keeps_nobody(fresh_book: Notebook, runtime_folder: Path) -> None:
    fresh_book.run(START.format("ending"))
    pids = pids_of("ending")
    fresh_book.run(
        CELL + "class Last:\n    def __del__(self): print('last words ' * 10000, flush=True)\nlast = Last()\n"
        "import atexit; atexit.register(print, 'at exit')"
    )
    assert fresh_book.run("%modal_stop ending").stdout == "ending is stopped\n"
    assert gone(pids)
    assert "ending" not in registry.names()


def pids_of(name: str) -> list[int]:
    """The process ids of a session's ranks."""
    session = Session.attach(name)
    try:
        return [rank.pid for rank in session.status().ranks]
    finally:
        session.detach()


def test_help_is_shown_for_those_who_ask(talker: Notebook) -> None:
    for flag in ("-h", "--help"):
        assert "--file PATH" in talker.run(f"%modal_logs {flag}").stdout


def test_the_log_of_a_session_whose_gateway_was_killed_can_be_read_by_another_kernel(
    fresh_book: Notebook, runtime_folder: Path
) -> None:
    before = {process.pid for process in ours(str(runtime_folder))}
    fresh_book.run(START.format("dead"))
    fresh_book.run(CELL + "print('an old cell')")
    fresh_book.run(CELL + "print('precious', rank)\nrank / 2")
    os.kill(registry.read("dead").pid, signal.SIGKILL)
    with notebook() as other:
        other.run("%load_ext modal_magic")
        for _ in range(2):
            shown = other.run("%modal_logs --session dead")
            assert "the gateway of session 'dead' is gone" in shown.stdout.splitlines()[0]
            assert sorted(shown.stdout.splitlines()[1:]) == sorted(
                line
                for rank in range(2)
                for line in (f"[rank {rank}] precious {rank}", f"[rank {rank}] Out: {rank / 2}")
            )
        assert other.run("%modal_logs --session dead --rank 1 --last 1").stdout.endswith("[rank 1] Out: 0.5\n")
        assert "what was left of the session is removed" in other.run("%modal_stop dead").stdout
        assert "there is no session 'dead'" in other.run("%modal_logs --session dead").error
    assert gone([p.pid for p in ours(str(runtime_folder)) if p.pid not in before and "zygote" not in described([p])])
