"""Bars and metrics of ranks: told by themselves, not too often, never as text, and at the price of plain tqdm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy
import pytest

import modal_magic
from modal_magic import protocol as p
from modal_magic import reporting
from modal_magic.node.progress import Reporter
from modal_magic.sessions.resources import Resources
from modal_magic.sessions.run import Run
from modal_magic.sessions.session import Session

pytestmark = pytest.mark.patient


@dataclass(slots=True)
class Rig:
    """A reporter with a clock that stands still, and what it has said."""

    now: float = 100.0
    run: str = "a"
    said: list[p.Progress | p.Metric] = field(default_factory=list)

    def reporter(self) -> Reporter:
        return Reporter(3, self.said.append, lambda: self.run, 0.1, lambda: self.now)

    @property
    def steps(self) -> list[float]:
        return [event.current for event in self.said if isinstance(event, p.Progress)]

    @property
    def values(self) -> list[tuple[str, float, float]]:
        return [(event.name, event.value, event.step) for event in self.said if isinstance(event, p.Metric)]


def test_reports_that_come_too_soon_are_overtaken_and_the_last_is_always_told() -> None:
    rig = Rig()
    reporter = rig.reporter()
    for step in range(100):
        reporter.report(step, 100, {"loss": 1.0 - step / 100})
    assert rig.steps == [0]
    assert rig.values == [("loss", 1.0, 0)]
    reporter.finish()
    assert rig.steps == [0, 99]
    assert rig.values[1:] == [("loss", pytest.approx(0.01), 99)]


def test_a_metric_without_steps_counts_them() -> None:
    rig = Rig()
    reporter = rig.reporter()
    for _ in range(3):
        reporter.report(None, None, {"reward": 5})
        rig.now += 1
    assert rig.values == [("reward", 5.0, 0), ("reward", 5.0, 1), ("reward", 5.0, 2)]
    assert rig.steps == []


def test_what_is_no_number_is_left_out() -> None:
    rig = Rig()
    rig.reporter().report(1, None, {"name": "resnet", "shape": [1, 2], "loss": "0.5"})
    assert rig.values == [("loss", 0.5, 1)]


def test_numbers_of_every_kind_are_told_and_what_cannot_be_told_ends_no_loop() -> None:
    class Unreadable:
        def __float__(self) -> float:
            raise KeyError("gone")

    rig = Rig()
    reporter = rig.reporter()
    reporter.move(1, "", numpy.int64(2), numpy.int64(10))  # type: ignore[arg-type]
    for value in (numpy.float32(0.5), 10**400, Unreadable()):
        reporter.report(numpy.int64(3), numpy.int64(9), {"loss": value})  # type: ignore[arg-type]
        reporter.finish()
    assert rig.values == [("loss", 0.5, 3)]
    for event in rig.said:
        assert p.decode_event(p.encode(event)) == event
    assert {(event.current, event.total) for event in rig.said if isinstance(event, p.Progress)} == {(2, 10), (3, 9)}


def test_between_cells_nothing_is_told() -> None:
    rig = Rig(run="")
    rig.reporter().report(1, 2, {"loss": 1.0})
    assert rig.said == []


def test_the_next_cell_is_told_nothing_of_one_that_was_interrupted() -> None:
    rig = Rig()
    reporter = rig.reporter()
    for step in range(5):
        reporter.report(step, 10, {"loss": 1.0})
    rig.said.clear()
    reporter.begin()
    reporter.finish()
    assert rig.said == []


def test_the_rate_is_that_of_the_loop_and_its_mean_at_the_end() -> None:
    rig = Rig()
    reporter = rig.reporter()
    for step in range(11):
        reporter.move(1, "", step, 10, ended=step == 10)
        rig.now += 0.25
    rates = [event.rate for event in rig.said if isinstance(event, p.Progress)]
    assert rates[0] is None
    assert rates[1:] == [pytest.approx(4.0)] * 10


def test_no_rate_is_taken_of_two_words_that_come_at_once() -> None:
    rig = Rig()
    reporter = rig.reporter()
    reporter.move(1, "", 0, 100)
    for step in range(1, 40):
        rig.now += 0.125
        reporter.move(1, "", step - 1, 100)  # `set_postfix` shows the bar, whose count tqdm has not moved yet
        rig.now += 1e-5
        reporter.move(1, "", step, 100)
    rates = [event.rate for event in rig.said if isinstance(event, p.Progress) and event.rate is not None]
    assert max(rates) <= 8.1 and rates[-1] == pytest.approx(8.0, rel=0.05)


def test_a_bar_that_goes_back_begins_anew() -> None:
    rig = Rig()
    reporter = rig.reporter()
    for step in (0, 50, 0, 10):
        reporter.move(1, "", step, 100)
        rig.now += 1.0
    assert [event.rate for event in rig.said if isinstance(event, p.Progress)] == [None, 50.0, None, 10.0]


RICH = """
import json
import sys
from modal_magic.node import bars
from modal_magic.node.progress import Reporter

said = []
bars.install(Reporter(0, said.append, lambda: "a"))

from rich.console import Console
from rich.live import Live
from rich.progress import Progress, track

for _ in track(range(5), description="[cyan]richly"):
    pass
with Progress() as progress:
    task = progress.add_task("shards", total=2)
    progress.refresh()
    progress.console.print("above the bar")
    print("printed")
    progress.update(task, advance=2)
console = Console()
with console.status("working"):
    console.print("beside a status")
with Live("first", console=console) as live:
    live.update("second", refresh=True)
    console.print("above what is live")
    live.update("last", refresh=True)
print("after")
json.dump([(event.label, event.current, event.ended) for event in said if event.ended], sys.stderr)
"""


def test_rich_draws_nothing_anew_and_keeps_what_is_printed_though_the_kernel_forces_colour() -> None:
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-color"}  # as ipykernel sets them
    done = subprocess.run([sys.executable, "-c", RICH], capture_output=True, text=True, check=True, env=environment)
    printed = ["above the bar", "printed", "beside a status", "above what is live", "last", "after"]
    assert done.stdout.splitlines() == printed
    assert json.loads(done.stderr) == [["richly", 5, True], ["shards", 2, True]]


# ---- off a rank ------------------------------------------------------------------------------------------------------


def test_off_a_rank_the_code_of_a_cell_runs_as_it_is() -> None:
    modal_magic.report(step=1, total=2, loss=0.5)
    assert list(modal_magic.progress(range(3), label="shards")) == [0, 1, 2]


def test_a_length_that_raises_is_not_known() -> None:
    class Endless:
        def __len__(self) -> int:
            raise TypeError("its data have no length")

        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    rig = Rig()
    assert list(reporting._told(rig.reporter(), Endless(), None, "")) == [0, 1, 2]
    assert {event.total for event in rig.said if isinstance(event, p.Progress)} == {None}


def test_asking_for_the_functions_loads_nothing_heavy() -> None:
    code = "import sys, modal_magic; modal_magic.report(step=1); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "zmq", "msgspec", "IPython", "tqdm"} & set(done.stdout.split())


# ---- on ranks --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(resources: Resources) -> Iterator[Session]:
    """A session of two ranks that the tests of this module share."""
    with Session(resources=resources, replicas=2, backend="local", framework="none") as made:
        yield made


def told(run: Run) -> list[p.Progress]:
    """What rank 1 told of its bars in a run that is over."""
    run.wait(60)
    return [event for event in run.events(0) if isinstance(event, p.Progress) and event.rank == 1]


WAYS = {
    "tqdm": "from tqdm import tqdm\nbar = tqdm(range(40))",
    "tqdm.auto": "from tqdm.auto import tqdm\nbar = tqdm(range(40))",
    "tqdm.notebook": "from tqdm.notebook import trange\nbar = trange(40)",
    "a bar that is off without a terminal": "from tqdm import tqdm\nbar = tqdm(range(40), disable=None)",
    "rich": "from rich.progress import track\nbar = track(range(40))",
    "progress": "import modal_magic\nbar = modal_magic.progress(range(40))",
    "numpy's numbers": (
        "import numpy\nfrom tqdm import tqdm\nsteps = tqdm(total=numpy.int64(40))\n"
        "bar = (steps.update(numpy.int64(1)) or steps.n == 40 and steps.close() for _ in range(40))"
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_bar_is_told_and_writes_nothing(ranks: Session, way: str) -> None:
    run = ranks.run(f"import time\n{WAYS[way]}\nfor _ in bar:\n    time.sleep(0.04)\nprint('after')")
    events = told(run)
    assert [event.current for event in events] == sorted(event.current for event in events)
    assert len({event.current for event in events}) > 2, "it moves while the loop goes on"
    assert (events[-1].current, events[-1].total, events[-1].ended) == (40, 40, True)
    assert run.ranks[1].output == "after\n"


def test_bars_in_bars_are_told_apart_and_the_numbers_of_a_postfix_are_metrics(ranks: Session) -> None:
    run = ranks.run(
        "import time\nfrom tqdm import tqdm\n"
        "for epoch in tqdm(range(3), desc='epoch'):\n"
        "    bar = tqdm(range(10), desc='batch', leave=False)\n"
        "    for batch in bar:\n        time.sleep(0.01)\n        bar.set_postfix(loss=0.5, lr='1e-3', model='tiny')\n"
        "        bar.set_postfix_str('acc: 0.75, best=3, seen 7/10, at=7/10')\n"
    )
    events = told(run)
    assert {event.label for event in events} == {"epoch", "batch"}
    assert [event.current for event in events if event.ended and event.label == "batch"] == [10, 10, 10]
    assert [event.current for event in events if event.ended and event.label == "epoch"] == [3]
    assert run.ranks[1].output == ""
    last = {name: curve.last[1] for name, curve in run.ranks[1].gauges.curves.items() if curve.last is not None}
    assert last == {"loss": 0.5, "lr": 0.001, "acc": 0.75, "best": 3}


def test_a_bar_into_a_file_of_its_own_stays_there(ranks: Session) -> None:
    run = ranks.run(
        "import io\nfrom tqdm import tqdm\nfile = io.StringIO()\nlist(tqdm(range(5), file=file))\nfile.getvalue()"
    )
    assert told(run) == []
    assert "5/5" in str(run.ranks[1].result)


def test_a_bar_that_an_exception_ends_is_told_to_its_last_step(ranks: Session) -> None:
    run = ranks.run("from tqdm import tqdm\nfor step in tqdm(range(10)):\n    if step == 7:\n        break\n")
    assert (told(run)[-1].current, told(run)) == (7, [])


def test_metrics_reach_the_view_of_the_run(ranks: Session) -> None:
    source = (
        "import modal_magic\nfor i in range(50):\n    modal_magic.report(step=i, total=50, loss=1 / (i + 1), rank=rank)"
    )
    run = ranks.run(source).wait(60)
    curves = run.ranks[1].gauges.curves
    assert curves["loss"].points()[0] == (0, 1.0)
    assert curves["loss"].last == (49, pytest.approx(0.02))
    assert curves["rank"].last == (49, 1.0)


def test_a_process_that_a_rank_forks_says_nothing_in_its_name(ranks: Session) -> None:
    source = (
        "import os\nfrom tqdm import tqdm\nchild = os.fork()\n"
        "if child == 0:\n    list(tqdm(range(5)))\n    os._exit(0)\nos.waitpid(child, 0)[1]"
    )
    run = ranks.run(source)
    assert told(run) == []
    assert run.ranks[1].result == "0"


def test_a_second_client_sees_how_far_a_run_is(ranks: Session, resources: Resources) -> None:
    loop = "for i in range(200):\n    modal_magic.report(step=i, total=200, loss=i)\n    time.sleep(0.01)"
    run = ranks.run(f"import time, modal_magic\n{loop}")
    while not run.ranks or not run.ranks[1].gauges.bars:
        run.events(1)
    other = Session.attach(ranks.name, resources)
    (same,) = other.unseen()
    same.wait(60)
    other.detach()
    gauges = same.ranks[1].gauges
    assert gauges.bars[0].current == 199
    assert gauges.curves["loss"].points()[0] == (0, 0)
