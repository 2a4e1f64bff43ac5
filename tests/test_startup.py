"""What the start of a session spends its time on: the stages, and how they are told."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.state import Startup
from modal_magic.view.startup import startup_line


def told(startup: Startup) -> dict[tuple[str, int], tuple[float, float | None]]:
    return {(stage.name, stage.node): (stage.began, stage.seconds) for stage in startup.stages}


def test_the_stages_of_two_nodes_follow_each_other_up_to_the_first_cell() -> None:
    queued = [p.Stage("queue", 3.0, node=node) for node in (0, 1)]
    startup = Startup([p.Stage("build", 1.0, 2.0), p.Stage("gateway", 3.0), *queued], 2, 2, at=5.0)
    assert told(startup) == {
        ("build", -1): (1.0, 2.0),
        ("gateway", -1): (3.0, 2.0),
        ("queue", 0): (3.0, None),
        ("queue", 1): (3.0, None),
    }
    startup.joined(1, [p.Stage("restore", 6.0, 0.5)], at=7.0)
    assert told(startup)["queue", 1] == (3.0, 3.0)
    assert told(startup)["restore", 1] == (6.0, 0.5)
    changed = startup.joined(0, [p.Stage("cold start", 8.0, 4.0)], at=12.0)
    assert p.Stage("fork", 12.0) in changed
    assert startup.joined(0, [], at=12.5) == []
    assert startup.hear(p.Launched(0, 7), 13.0) == []
    startup.hear(p.Launched(1, 8), 14.0)
    assert not startup.hear(p.Launched(1, 9), 14.5)
    startup.hear(p.SessionChanged("ready", 1, ""), 15.0)
    startup.hear(p.Submitted("a", [0, 1], 1, "pass"), 16.0)
    startup.hear(p.RunEnded("b", "done", [], 0.1), 16.5)
    assert not startup.over
    assert startup.hear(p.RunEnded("a", "done", [], 1.0), 17.0) == [p.Stage("first cell", 16.0, 1.0)]
    assert startup.over
    own = {name: took for (name, node), (_, took) in told(startup).items() if node == -1}
    assert own == {"build": 2.0, "gateway": 2.0, "fork": 2.0, "rendezvous": 1.0, "first cell": 1.0}


def test_clocks_that_disagree_make_no_time_negative() -> None:
    startup = Startup([p.Stage("gateway", 9.0), p.Stage("queue", 9.0, node=0)], 1, 1, at=8.0)
    startup.joined(0, [p.Stage("restore", 7.0, 0.2)], at=8.1)
    assert {stage.name: stage.seconds for stage in startup.stages if stage.name != "fork"} == {
        "gateway": 0.0,
        "queue": 0.0,
        "restore": 0.2,
    }


def test_a_stage_of_several_nodes_is_told_by_the_longest_and_what_goes_on_by_who() -> None:
    stages = [
        p.Stage("build", 0.0, 0.4),
        p.Stage("queue", 1.0, 2.0, 0),
        p.Stage("queue", 1.0, 31.0, 1),
        p.Stage("cold start", 3.0, 6.2, 0),
    ]
    assert startup_line(stages, 40.0) == "build 0.4 s, queue 31 s (node 1), cold start 6.2 s"
    waiting = [*stages, p.Stage("queue", 1.0, None, 2), p.Stage("queue", 1.0, None, 3)]
    assert startup_line(waiting, 61.0) == "build 0.4 s, queue for 1:00 so far (nodes 2-3), cold start 6.2 s"
    assert startup_line([], 0.0) == ""
