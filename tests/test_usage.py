"""What ranks use is sampled while they run a cell, told once for each sample, and shown where it is known."""

from __future__ import annotations

import os
from typing import Any

import psutil
import pytest

from modal_magic import protocol as p
from modal_magic.live import LiveTable
from modal_magic.node import gpu
from modal_magic.node.rank_process import RankProcess, open_lines
from modal_magic.node.usage import ANSWER_SECONDS, SAMPLE, SAMPLE_SECONDS, UsageWatch
from modal_magic.view.saved import as_plain
from modal_magic.view.status import status_lines
from tests.test_snapshot import begun, move, taken

GIB = 1024**3


@pytest.fixture
def worker() -> Any:
    """A rank that runs a cell, in a process that is there: this one."""
    made, there = open_lines(0)
    made.pid, made.run, made.owes = os.getpid(), "a", True
    yield made
    made.close()
    for descriptor in there:
        os.close(descriptor)


def test_a_rank_is_sampled_twice_a_second_while_it_runs_a_cell_and_not_after(worker: RankProcess) -> None:
    watch = UsageWatch()
    watch.add(0, {"WORLD_SIZE": "4", "LOCAL_RANK": "0"})
    assert watch.due() == float("inf")
    watch.begin(100.0)
    assert watch.turn([worker], 100.0) == [], "a short cell is never looked at"
    told: list[p.Usage] = []
    for _ in range(4):
        now = watch.due()
        told += watch.turn([worker], now)
        if not worker.sampled:
            worker.where, worker.sampled = p.Whereabouts(line=7, function="load"), True
    assert now == pytest.approx(100.0 + 2 * SAMPLE_SECONDS + ANSWER_SECONDS)
    assert [(usage.run, usage.where) for usage in told] == [("a", p.Whereabouts(line=7, function="load"))] * 2
    assert told[0].cpu is None, "a share needs two samples"
    assert told[1].cpu is not None
    assert told[1].memory == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    worker.owes = False
    while watch.due() < float("inf"):
        assert watch.turn([worker], watch.due()) == []


def test_a_rank_that_does_not_answer_is_asked_once_and_shown_nowhere(worker: RankProcess) -> None:
    for _ in range(1000):
        worker.sample(SAMPLE)
    assert len(worker.control.rest) == 0, "one question fits in any socket"
    assert worker.where is None


def test_of_very_many_ranks_each_is_told_of_less_often() -> None:
    watch = UsageWatch()
    watch.add(0, {"WORLD_SIZE": "4096"})
    assert watch.interval == 4.0


class Nvml:
    """What nvidia-ml-py says of a machine with two devices, the second of which does not tell how busy it is."""

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index > 1:
            raise self.NVMLError
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        return {"GPU-b": 1}[name]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle == 1:
            raise self.NVMLError
        return type("Rates", (), {"gpu": 94})

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return type("Memory", (), {"used": 31 * GIB, "total": 40 * GIB})


@pytest.mark.parametrize(
    ("environment", "used"),
    [
        ({"LOCAL_RANK": "0"}, (94, 31 * GIB, 40 * GIB)),
        ({"LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": "GPU-b"}, (None, 31 * GIB, 40 * GIB)),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "1,0"}, (94, 31 * GIB, 40 * GIB)),
        ({"LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": ""}, None),
        ({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "0"}, None),
        ({"LOCAL_RANK": "5"}, None),
    ],
)
def test_the_gpu_of_a_rank_is_found_as_cuda_finds_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], used: object
) -> None:
    monkeypatch.setattr(gpu, "library", Nvml)
    found = gpu.find_gpu(environment)
    assert (found.read() if found is not None else None) == used


def test_the_newest_sample_of_each_rank_is_told_and_a_newcomer_has_it_too() -> None:
    table = LiveTable()
    for cpu in range(3):
        table.take(p.Usage(1, "a", None, cpu, 2 * GIB))
    assert table.news() == table.all() == [p.Usage(1, "a", None, 2, 2 * GIB)]
    assert table.news() == []
    assert table.seen(1, "a") == (0, "", 2, 2 * GIB)
    assert table.seen(1, "b") == table.seen(0, "a") == (0, "", None, None)


def test_rows_say_what_is_used_and_where_a_rank_is() -> None:
    run = begun(2)
    run.apply(p.Usage(0, "a", p.Whereabouts(line=7, function="load"), 62, GIB, 94, 31 * GIB, 40 * GIB), 109.0)
    run.apply(p.Usage(1, "a", p.Whereabouts(9, "", "all_reduce", "", 77, [], 4.0), 3, GIB, 100), 109.0)
    first, second = taken(run, 2).ranks
    assert (first.line, first.function, first.cpu, first.gpu_memory, first.waits_in) == (7, "load", 62, 31 * GIB, "")
    assert (second.waits_in, second.waits_since, second.line) == ("all_reduce #77", 105.0, 9)
    lines = as_plain(taken(run, 2)).splitlines()
    assert lines[1].split() == ["rank", "state", "cpu", "memory", "gpu", "gpu", "mem", "last", "line"]
    assert "‖ all_reduce #77" in lines[3]
    assert lines[2].split()[3:] == ["62", "%", "1.0", "G", "94", "%", "31.0", "G"]
    move(run, 1, 78)
    assert taken(run, 2).ranks[1].waits_in == "", "it has told of progress since"


def test_a_rank_that_is_done_keeps_its_memory_in_the_table_and_uses_no_processor() -> None:
    run = begun(1)
    run.apply(p.Usage(0, "a", p.Whereabouts(line=7), 62, GIB), 101.0)
    run.apply(p.Finished(0, "a", 4.0, p.Health()), 104.5)
    row = taken(run, 1).ranks[0]
    assert (row.cpu, row.memory, row.line) == (None, GIB, 0)


def test_the_status_of_a_session_says_where_its_ranks_are() -> None:
    ranks = [
        p.RankStatus(0, 0, "running", 11, "a", "cpu", 7, "load", 62, GIB),
        p.RankStatus(1, 0, "idle", 12, None, ""),
    ]
    status = p.Status("q", "train", "running", 0, ranks, "a", [], 1, 5.0, 60.0, None)
    assert status_lines(status, "--replicas 2")[-1] == "    rank 0: cell line 7 in load, CPU 62 %, memory 1.0 G"
