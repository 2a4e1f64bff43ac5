"""A session's status as text, and times and sizes as people say them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from modal_magic import protocol as p
from modal_magic.view.status import seconds_in_words, status_lines
from modal_magic.view.text import bytes_in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (139, "2:19"),
        (6067, "1:41:07"),
    ],
)
def test_times_read_as_people_say_them(seconds: float, words: str) -> None:
    assert seconds_in_words(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(9.96, "10 s"), (59.7, "1:00"), (3599.9, "59:59")])
def test_a_time_is_not_rounded_into_the_next_unit(seconds: float, words: str) -> None:
    assert seconds_in_words(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(999, "999 bytes"), (1000, "1 kB"), (180_000_000, "180 MB"), (2_500_000_000, "2.5 GB")],
)
def test_sizes_read_as_people_say_them(count: int, words: str) -> None:
    assert bytes_in_words(count) == words


def status(*ranks: p.RankStatus, **changes: Any) -> p.Status:
    plain = p.Status("r", "train", "ready", 1, list(ranks), None, [], 1, 12.0, 1800.0, None)
    return msgspec.structs.replace(plain, **changes)


def test_ranks_that_agree_share_a_line() -> None:
    ranks = [p.RankStatus(number, number // 2, "idle", 100 + number, None, "cpu") for number in range(4)]
    assert status_lines(status(*ranks), "2 × 2 ranks") == [
        "train: ready, 4 ranks, up 12 s, 1 kernel attached, lease of 30:00 not begun",
        "  shape 2 × 2 ranks",
        "  ranks 0-1 on node 0: idle on cpu, pid 100, 101",
        "  ranks 2-3 on node 1: idle on cpu, pid 102, 103",
    ]


def test_between_runs_a_rank_is_idle_and_it_is_told_how_its_last_cell_ended() -> None:
    ranks = [p.RankStatus(0, 0, "done", 100, None, "cpu"), p.RankStatus(1, 0, "failed", 101, None, "cpu")]
    assert status_lines(status(*ranks), "1 × 2")[2:] == [
        "  rank 0 on node 0: idle on cpu, last cell done, pid 100",
        "  rank 1 on node 0: idle on cpu, last cell failed, pid 101",
    ]
    assert "rank 0 on node 0: done on cpu" in status_lines(status(*ranks, run="a"), "1 × 2")[2]


def test_a_rank_that_is_lost_has_no_process_and_no_device() -> None:
    ranks = [p.RankStatus(0, 0, "running", 100, "a", "cuda:0"), p.RankStatus(1, 0, "lost", 0, None, "")]
    told = status(*ranks, state="running", clients=0, lease_left=90.0, run="a", queued=["b", "c"])
    assert status_lines(told, "1 × 2 ranks") == [
        "train: running, 2 ranks, up 12 s, 0 kernels attached, lease runs out in 1:30",
        "  shape 1 × 2 ranks",
        "  rank 0 on node 0: running on cuda:0, pid 100",
        "  rank 1 on node 0: lost",
        "  run a goes on, 2 more wait",
    ]


def test_a_session_of_one_rank_speaks_of_one_rank() -> None:
    assert status_lines(status(p.RankStatus(0, 0, "idle", 1, None, "cpu")), "1 × 1")[0].startswith(
        "train: ready, 1 rank,"
    )


def test_the_processes_of_many_ranks_are_not_listed() -> None:
    ranks = [p.RankStatus(number, 0, "idle", 100 + number, None, "cpu") for number in range(9)]
    assert status_lines(status(*ranks), "1 × 9")[2] == "  ranks 0-8 on node 0: idle on cpu"
