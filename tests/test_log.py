"""The event log: numbered without gaps, on disk up to a limit, read from any number, also when its writer is dead."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from modal_magic import protocol as p
from modal_magic.gateway.log import EventLog
from modal_magic.segments import SMALLEST_BYTES, read_records
from modal_magic.sessions.transcript import asked, left_behind

Open = Callable[..., EventLog]
BIG = 1 << 40


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Logs with a limit and a memory of so many bytes, closed at the end."""
    logs: list[EventLog] = []

    def make(memory: int = 1000, limit: int = BIG) -> EventLog:
        logs.append(EventLog(tmp_path, limit, memory))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def line(number: int, size: int = 10, run: str = "run", rank: int = 0) -> p.Output:
    return p.Output(rank, run, "stdout", f"{number:0{size}}\n")


def sequences(records: list[bytes]) -> list[int]:
    return [p.decode_record(record).sequence for record in records]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events-*.log"))


def text_of(log: EventLog, run: str = "run", ranks: list[int] | None = None, size: int = 1000) -> tuple[str, int]:
    """The text of a run, read page by page, and how much of it is gone."""
    read = asked(lambda name, after: log.page("r", name or "", ranks, after, size), run)
    return "".join(event.text for event in read if isinstance(event, p.Output)), read.gone


# ---- numbers and batches ---------------------------------------------------------------------------------------------


def test_records_are_numbered_from_one_in_the_order_in_which_they_came(opened: Open) -> None:
    log = opened()
    assert (log.newest, log.since(0, 100)) == (0, ([], 0))
    for number in range(1, 4):
        encoded = log.append(line(number), 100.0 + number)
        assert p.decode_record(encoded) == p.Record(number, 100.0 + number, line(number))
        assert log.newest == number
    records, reached = log.since(0, 10_000)
    assert (sequences(records), reached) == ([1, 2, 3], 3)


@pytest.mark.parametrize("memory", [0, 1, 100, 1000, 10_000, 10_000_000])
def test_what_is_read_is_what_was_written_wherever_it_lies(opened: Open, memory: int) -> None:
    log = opened(memory)
    written = [log.append(line(number, 1 + number % 90), float(number)) for number in range(500)]
    for number in (0, 1, 250, 498, 499, 500):
        assert log.since(number, 1 << 30) == (written[number:], 500)


@settings(deadline=None, max_examples=30)
@given(some.lists(some.integers(0, 300), max_size=40), some.integers(0, 500), some.integers(0, 700))
def test_a_reader_that_comes_back_again_and_again_misses_nothing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], memory: int, batch: int
) -> None:
    log = EventLog(tmp_path_factory.getbasetemp(), BIG, memory)
    seen: list[bytes] = []
    written: list[bytes] = []
    reached = 0
    for number, size in enumerate(sizes):
        written.append(log.append(line(number, size), 0.0))
        if number % 3 == 0:
            more, reached = log.since(reached, batch)
            seen += more
    while reached < log.newest:
        more, reached = log.since(reached, batch)
        seen += more
    log.close()
    assert seen == written


def test_a_reader_finds_its_place_in_a_long_log(opened: Open) -> None:
    log = opened()
    written = [log.append(line(number, 10_000 if number % 50 else 700_000), 0.0) for number in range(1000)]
    for number in (0, 1, 49, 50, 51, 499, 950, 999):
        assert log.since(number, 1) == (written[number : number + 1], number + 1)


@pytest.mark.parametrize("memory", [100, 1_000_000])
def test_batches_have_about_the_size_that_is_asked(opened: Open, memory: int) -> None:
    log = opened(memory)
    size = len(log.append(line(0), 0.0))
    for number in range(1, 100):
        log.append(line(number), 0.0)
    assert log.since(0, 10 * size)[1] == 10
    assert log.since(0, 10 * size + 1)[1] == 11
    assert sequences(log.since(95, 10 * size)[0]) == [96, 97, 98, 99, 100]


@pytest.mark.parametrize("memory", [100, 1_000_000])
def test_a_record_that_is_larger_than_a_batch_goes_alone(opened: Open, memory: int) -> None:
    log = opened(memory)
    for size in (10, 5000, 10):
        log.append(line(0, size), 0.0)
    assert [sequences(log.since(number, 100)[0]) for number in range(4)] == [[1, 2], [2], [3], []]


def test_reading_past_the_end_gives_nothing(opened: Open) -> None:
    log = opened()
    log.append(line(0), 0.0)
    assert log.since(1, 100) == ([], 1)
    assert log.since(99, 100) == ([], 99)


@pytest.mark.parametrize("memory", [0, 1_000_000])
def test_what_is_withheld_is_left_out_for_clients_and_stays_in_the_log_of_its_run(opened: Open, memory: int) -> None:
    log = opened(memory)
    for number in range(10):
        log.append(line(number), 0.0, withheld=number >= 5)
    log.append(p.Notice("after"), 0.0)
    records, reached = log.since(0, 10_000)
    assert (sequences(records), reached) == ([1, 2, 3, 4, 5, 11], 11)
    assert text_of(log) == ("".join(line(number).text for number in range(10)), 0)


# ---- the log of a run ------------------------------------------------------------------------------------------------


def test_the_log_of_a_run_has_its_own_records_of_the_ranks_that_are_asked_for(opened: Open) -> None:
    log = opened()
    for number in range(300):
        log.append(line(number, run=f"run {number // 100}", rank=number % 3), 0.0)
        log.append(p.Metric(number % 3, f"run {number // 100}", "loss", 1.0, number), 0.0)
    log.append(line(300, run="run 0"), 0.0)  # something that it had left running
    assert text_of(log, "run 1") == ("".join(line(number).text for number in range(100, 200)), 0)
    assert text_of(log, "run 0")[0].endswith(line(99).text + line(300).text)
    assert text_of(log, "run 1", [2])[0] == "".join(line(number).text for number in range(101, 200, 3))
    assert text_of(log, "run 1", []) == text_of(log, "run 7") == ("", 0)


def test_no_page_takes_longer_than_its_share_whatever_is_in_it(opened: Open) -> None:
    log = opened()
    log.append(line(0, run="a"), 0.0)
    for number in range(1000):
        log.append(line(number, 1000, "b"), 0.0)
    log.append(line(1, run="a"), 0.0)
    pages = [log.page("r", "a", None, 0, 10_000)]
    while pages[-1].next is not None:
        pages.append(log.page("r", "a", None, pages[-1].next, 10_000))
    assert len(pages) > 90
    assert sum(len(page.records) for page in pages) == 2


# ---- the files -------------------------------------------------------------------------------------------------------


def test_memory_holds_no_more_than_its_limit(opened: Open) -> None:
    log = opened(1000)
    for number in range(1000):
        log.append(line(number), 0.0)
        assert sum(len(entry.record) for entry in log._recent) <= 1000


def test_past_the_limit_the_oldest_records_go_and_it_is_known_how_much(opened: Open, tmp_path: Path) -> None:
    limit = 10 * SMALLEST_BYTES
    log = opened(1000, limit)
    for run in range(4):
        for number in range(4000):
            log.append(line(number, 100, f"run {run}"), 0.0)
    assert limit // 2 < sum(path.stat().st_size for path in files(tmp_path)) <= limit
    left, gone = text_of(log, "run 3", size=100_000)
    assert (len(left), gone) == (4000 * 101, 0)
    assert text_of(log, "run 0") == ("", 0)
    for number in range(4000):
        log.append(line(number, 200, "run 3"), 0.0)
    left, gone = text_of(log, "run 3", size=100_000)
    assert left.endswith(line(3999, 200).text) and 0 < len(left) < limit
    assert len(left) + gone == 4000 * 302


def test_how_the_session_and_its_runs_stand_is_kept_when_the_records_round_it_go(opened: Open) -> None:
    log = opened(1000, 4 * SMALLEST_BYTES)
    log.append(p.SessionChanged("launching", 0, ""), 0.0)
    log.append(p.Submitted("old", [0], 1, "pass"), 0.0)
    log.append(p.RunEnded("old", "done", [], 1.0), 0.0)
    log.append(p.SessionChanged("ready", 1, ""), 0.0)
    log.append(p.Submitted("run", [0], 1, "pass"), 0.0)
    log.append(p.Started(0, "run"), 0.0)
    for number in range(10_000):
        log.append(line(number, 100), 0.0)
    records, reached = log.since(0, 1000)
    ended, *standing, first = sequences(records)[:5]  # the end of a run, for a client that was away then
    assert (ended, standing) == (3, [4, 5, 6]) and first > 7000
    assert sequences(log.since(4, 10)[0]) == [5]
    assert reached > 7000 and sequences(log.since(reached, 1)[0]) == [reached + 1]


def test_the_files_are_this_users_alone_and_go_with_the_log(opened: Open, tmp_path: Path) -> None:
    log = opened(0, SMALLEST_BYTES)
    for number in range(2000):
        log.append(line(number, 100), 0.0)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)} == {0o600}
    log.close()
    log.close()
    assert files(tmp_path) == []


def test_a_file_or_link_in_the_place_of_the_log_is_replaced_and_not_followed(opened: Open, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "events-000001.log").symlink_to(precious)
    log = opened(0)
    log.append(line(0), 0.0)
    assert text_of(log)[0] == line(0).text
    assert precious.read_text() == "mine"


# ---- a disk that is full ---------------------------------------------------------------------------------------------


def test_a_full_disk_costs_old_records_and_nothing_else(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(1000)
    for number in range(100):
        log.append(line(number, 100), 0.0)
    real, full = os.pwrite, True

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if full:
            real(descriptor, data[:7], offset)  # a part of it may still fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    written = [log.append(line(number, 100), 0.0) for number in range(100, 200)]
    assert log.fault == "No space left on device"
    assert log.since(200 - 20, BIG) == (written[-20:], 200)
    text, gone = text_of(log)
    assert gone > 0 and len(text) + gone == 200 * 101
    assert text.startswith(line(0, 100).text) and text.endswith(line(199, 100).text)
    full = False
    for number in range(200, 300):
        log.append(line(number, 100), 0.0)
    text, still_gone = text_of(log)
    assert len(text) + still_gone == 300 * 101 and text.endswith(line(299, 100).text)
    assert sequences(log.since(200, BIG)[0]) == list(range(201, 301))


def test_a_disk_that_takes_nothing_at_all_leaves_what_memory_holds(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "gone", BIG, 10_000)
    written = [log.append(line(number), 0.0) for number in range(50)]
    assert log.fault and log.since(0, BIG) == (written, 50)
    log.close()


# ---- a log whose writer is dead --------------------------------------------------------------------------------------


def test_what_a_killed_writer_had_logged_can_be_read(tmp_path: Path) -> None:
    source = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom modal_magic import protocol as p\n"
        "from modal_magic.gateway.log import EventLog\nlog = EventLog(Path(sys.argv[1]), 10**9)\n"
        "log.append(p.Submitted('run', [0], 1, 'pass'), 0.0)\n"
        "for i in range(100): log.append(p.Output(i % 2, 'run', 'stdout', f'line {i}\\n'), 0.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", source, str(tmp_path)], check=False, timeout=30)
    assert [event.text for event in left_behind(tmp_path, None) if isinstance(event, p.Output)] == [
        f"line {i}\n" for i in range(100)
    ]
    assert len(list(left_behind(tmp_path, [1]))) == 50


def test_what_is_left_of_a_run_whose_beginning_is_past_the_limit_can_be_read(opened: Open, tmp_path: Path) -> None:
    log = opened(0, limit=1)
    log.append(p.Submitted("run", [0], 1, "pass"), 0.0)
    for number in range(5000):
        log.append(line(number), 0.0)
    log.close(keep=True)
    assert not any(isinstance(record.event, p.Submitted) for record in read_records(tmp_path))
    *_, last = left_behind(tmp_path, None)
    assert last == line(4999)


def test_a_record_that_was_cut_off_by_the_end_is_left_out(opened: Open, tmp_path: Path) -> None:
    log = opened(0)
    for number in range(10):
        log.append(line(number), 0.0)
    log.close(keep=True)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for size in range(len(whole) - 40, len(whole)):
        path.write_bytes(whole[:size])
        assert [record.sequence for record in read_records(tmp_path)] == list(range(1, 10))
    path.write_bytes(whole + b"\0" * 50)
    assert [record.sequence for record in read_records(tmp_path)] == list(range(1, 11))
    path.unlink()
    assert list(left_behind(tmp_path, None)) == []
