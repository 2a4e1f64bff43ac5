"""The event log: numbered without gaps, on disk past a limit, read from any number."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from modal_magic import protocol as p
from modal_magic.log import EventLog

Open = Callable[[int], EventLog]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.log"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Logs of a memory of so many bytes, closed at the end."""
    logs: list[EventLog] = []

    def make(memory: int) -> EventLog:
        logs.append(EventLog(path, memory))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def line(number: int, size: int = 10) -> p.Output:
    return p.Output(0, "run", "stdout", f"{number:0{size}}\n")


def sequences(records: list[bytes]) -> list[int]:
    return [p.decode_record(record).sequence for record in records]


def test_records_are_numbered_from_one_in_the_order_in_which_they_came(opened: Open) -> None:
    log = opened(1000)
    assert (log.newest, log.since(0, 100), list(log.events())) == (0, [], [])
    for number in range(1, 4):
        encoded = log.append(line(number), 100.0 + number)
        assert p.decode_record(encoded) == p.Record(number, 100.0 + number, line(number))
        assert log.newest == number
    assert sequences(log.since(0, 10_000)) == [1, 2, 3]


def test_nothing_is_on_disk_until_memory_is_full(opened: Open, path: Path) -> None:
    log = opened(10_000)
    for number in range(20):
        log.append(line(number), 0.0)
    assert not path.exists()


@pytest.mark.parametrize("memory", [0, 1, 100, 1000, 10_000, 10_000_000])
def test_what_is_read_is_what_was_written_wherever_it_lies(opened: Open, path: Path, memory: int) -> None:
    log = opened(memory)
    written = [log.append(line(number, 1 + number % 90), float(number)) for number in range(500)]
    assert log.since(0, 1 << 30) == written
    assert list(log.events()) == [line(number, 1 + number % 90) for number in range(500)]
    for number in (0, 1, 250, 498, 499, 500):
        assert log.since(number, 1 << 30) == written[number:]
    assert path.exists() == (memory < 10_000_000)


@settings(deadline=None, max_examples=30)
@given(some.lists(some.integers(0, 300), max_size=40), some.integers(0, 500), some.integers(0, 700))
def test_a_reader_that_comes_back_again_and_again_misses_nothing(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], memory: int, batch: int
) -> None:
    log = EventLog(tmp_path_factory.getbasetemp() / "again.log", memory)
    seen: list[bytes] = []
    written: list[bytes] = []
    for number, size in enumerate(sizes):
        written.append(log.append(line(number, size), 0.0))
        if number % 3 == 0:
            seen += log.since(len(seen), batch)
    while more := log.since(len(seen), batch):
        seen += more
    log.close()
    assert seen == written


def test_memory_holds_no_more_than_the_limit(opened: Open, path: Path) -> None:
    log = opened(1000)
    written = sum(len(log.append(line(number), 0.0)) for number in range(1000))
    assert written - path.stat().st_size <= 1000


@pytest.mark.parametrize("memory", [100, 1_000_000])
def test_batches_have_about_the_size_that_is_asked(opened: Open, memory: int) -> None:
    log = opened(memory)
    size = len(log.append(line(0), 0.0))
    for number in range(1, 100):
        log.append(line(number), 0.0)
    assert len(log.since(0, 10 * size)) == 10
    assert len(log.since(0, 10 * size + 1)) == 11
    assert len(log.since(95, 10 * size)) == 5


@pytest.mark.parametrize("memory", [100, 1_000_000])
def test_a_record_that_is_larger_than_a_batch_goes_alone(opened: Open, memory: int) -> None:
    log = opened(memory)
    for size in (10, 5000, 10):
        log.append(line(0, size), 0.0)
    assert [sequences(log.since(number, 100)) for number in range(4)] == [[1, 2], [2], [3], []]


def test_reading_past_the_end_gives_nothing(opened: Open) -> None:
    log = opened(100)
    log.append(line(0), 0.0)
    assert log.since(1, 100) == log.since(99, 100) == []


def test_the_file_is_this_users_alone(opened: Open, path: Path) -> None:
    opened(0).append(line(0), 0.0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_there_already_is_written_anew(opened: Open, path: Path) -> None:
    path.write_bytes(b"of a session that died")
    log = opened(0)
    log.append(line(0), 0.0)
    assert list(log.events()) == [line(0)]
    assert b"died" not in path.read_bytes()


def test_a_link_in_the_place_of_the_file_is_not_followed(opened: Open, path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    path.symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        opened(0).append(line(0), 0.0)
    assert precious.read_text() == "mine"


def test_closing_removes_the_file_and_can_be_done_twice(opened: Open, path: Path) -> None:
    log = opened(0)
    log.append(line(0), 0.0)
    assert path.exists()
    log.close()
    log.close()
    assert not path.exists()


def test_a_log_that_never_spilled_is_closed_without_a_file(opened: Open, path: Path) -> None:
    opened(1000).close()
    assert not path.exists()
