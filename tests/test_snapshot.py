"""From events to what is drawn: rows, rates, time left, failures, and the saved forms that show them anywhere."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_magic import Session
from modal_magic import protocol as p
from modal_magic.sessions.run import Run
from modal_magic.view import numbers, picture
from modal_magic.view.cell_output import show
from modal_magic.view.console import follow
from modal_magic.view.model import RunView, last_line
from modal_magic.view.saved import ROWS, as_html, as_plain, progress_line
from modal_magic.view.snapshot import SessionFacts, Snapshot, columns
from modal_magic.view.taking import snapshot
from modal_magic.view.text import Part, TextView
from modal_magic.view.widget import VIEW, wants_widget

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\x1b]0;title\x07\x1b[2J\x1b[31m"


def begun(ranks: int = 4) -> RunView:
    """A run that was sent at second 100 and begun by all."""
    run = RunView("a")
    run.apply(p.Submitted("a", list(range(ranks)), 3, "pass"), 100.0)
    for rank in range(ranks):
        run.apply(p.Started(rank, "a"), 100.5)
    return run


def move(
    run: RunView, rank: int, step: float, total: float | None = 100, *, bar: int = 1, rate: float | None = 5.0
) -> None:
    run.apply(p.Progress(rank, "a", bar, "", step, total, step == total, rate), 110.0)


def taken(run: RunView | None, ranks: int = 4, now: float = 110.0) -> Snapshot:
    return snapshot(SessionFacts("train", "local, 4 ranks", ranks, 1), run, now)


def test_a_session_without_a_run_shows_its_ranks() -> None:
    shot = snapshot(SessionFacts("train", "local", 2, 1, "ready", (7, 8), ("idle", "lost"), 50.0), None, 60.0)
    assert [(row.state, row.pid, row.since) for row in shot.ranks] == [("idle", 7, 50.0), ("lost", 8, 50.0)]
    assert (shot.run, shot.run_state) == ("", "")


def test_time_left_is_that_of_the_slowest_rank() -> None:
    run = begun()
    move(run, 0, 50)
    move(run, 1, 20, rate=2.0)
    shot = taken(run)
    assert shot.ranks[0].left == 10
    assert shot.left == shot.ranks[1].left == 40
    assert shot.ranks[2].left is None
    move(run, 0, 100)
    move(run, 1, 100)
    assert taken(run).left is None  # they go on, nobody knows for how long


def test_a_loop_in_a_loop_counts_as_part_of_its_step() -> None:
    run = begun()
    move(run, 0, 1, 4, bar=1, rate=0.1)
    move(run, 0, 50, 100, bar=2, rate=10.0)
    row = taken(run).ranks[0]
    assert row.fraction == pytest.approx(1.5 / 4)
    assert row.left == pytest.approx((50 + 2 * 100) / 10)


def test_what_report_says_of_all_the_work_is_shown_in_place_of_the_loop() -> None:
    run = begun()
    move(run, 0, 5, 10, bar=1)
    move(run, 0, 7, None, bar=0)
    assert [loop.step for loop in taken(run).ranks[0].loops] == [5]
    move(run, 0, 7, 20, bar=0)
    assert [loop.step for loop in taken(run).ranks[0].loops] == [7]


def test_a_rank_that_stands_still_has_the_rate_zero() -> None:
    run = begun()
    move(run, 0, 50, rate=5.0)
    assert taken(run, now=111.0).ranks[0].loops[0].rate == 5.0
    assert taken(run, now=120.0).ranks[0].loops[0].rate == 0.0
    assert taken(run, now=120.0).ranks[0].left is None


def test_a_slow_loop_does_not_stand_still_between_two_steps() -> None:
    run = begun()
    move(run, 0, 50, rate=0.1)
    assert taken(run, now=125.0).ranks[0].loops[0].rate == 0.1


def test_states_have_the_time_at_which_they_began() -> None:
    run = begun(2)
    run.apply(p.Finished(1, "a", 4.0, p.Health()), 104.5)
    rows = taken(run, 2).ranks
    assert [(row.state, row.since, row.seconds) for row in rows] == [("running", 100.5, None), ("done", 104.5, 4.0)]


def failed() -> RunView:
    run = begun()
    error = p.RemoteError("ValueError", f"bad {HOSTILE}", ["\x1b[31mValueError\x1b[0m: bad"], 12)
    run.apply(p.Failed(2, "a", 3.0, p.Health(), error), 103.0)
    for rank in (0, 1, 3):
        run.apply(p.Interrupted(rank, "a", 3.0, p.Health(), "all_reduce at cell line 9"), 103.1)
    run.apply(p.RunEnded("a", "failed", [2], 3.2), 103.2)
    return run


def test_a_failure_names_its_rank_its_line_and_what_became_of_the_others() -> None:
    shot = taken(failed())
    assert shot.failure is not None
    assert shot.failure.rank == 2
    assert shot.failure.title.startswith("Rank 2 raised ValueError: bad")
    assert "cell line 12" in shot.failure.title
    assert shot.failure.others == (
        "Ranks 0-1,3 were interrupted in all_reduce at cell line 9. Variables are kept on all ranks."
    )
    assert "correct line 12" in shot.failure.advice
    assert shot.failure.text == "ValueError: bad"
    assert [row.line for row in shot.ranks] == [9, 9, 12, 9]


def test_the_rank_that_others_wait_for_is_marked_until_they_move_on() -> None:
    run = begun(2)
    waits = p.RankStack(0, "running", p.Whereabouts(line=7, collective="all_reduce", sequence=77, since=12.0))
    absent = p.RankStack(1, "running", p.Whereabouts(line=18, function="load_batch"))
    run.apply(p.Stalled("a", [waits], [absent]), 112.0)
    shot = taken(run, 2)
    assert shot.stall.startswith("rank 0 has waited 12 s in all_reduce")
    assert [(row.waits_in, row.awaited, row.line) for row in shot.ranks] == [
        ("all_reduce #77", False, 0),
        ("", True, 18),
    ]
    move(run, 0, 78)
    assert (taken(run, 2).stall, taken(run, 2).ranks[1].awaited) == ("", False)


def test_loss_comes_first_and_else_the_metric_that_was_told_first() -> None:
    run = begun()
    assert columns(taken(run)) == (False, [])
    run.apply(p.Metric(1, "a", "reward", 1.0, 0.0), 101.0)
    assert columns(taken(run)) == (False, ["reward"])
    run.apply(p.Metric(2, "a", "loss", 1.0, 0.0), 101.0)
    move(run, 0, 1)
    assert columns(taken(run)) == (True, ["loss", "reward"])


# ---- what is written -------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Which elements and attributes a text has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [name for name, _ in attrs]


KNOWN = {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "code", "details", "summary", "pre"}


@given(st.text())
def test_whatever_a_rank_writes_is_text(text: str) -> None:
    run = failed()
    run.apply(p.Output(0, "a", "stdout", text + HOSTILE), 103.0)
    run.apply(p.Metric(0, "a", text + HOSTILE, 1.0, 0.0), 103.0)
    shot = taken(run)
    found = Tags(as_html(shot))
    assert found.tags <= KNOWN
    assert found.attributes == []
    assert "\x1b" not in last_line(text + HOSTILE)


def test_the_saved_table_says_how_each_rank_ended() -> None:
    run = begun(2)
    for rank in range(2):
        for step in range(10):
            run.apply(p.Metric(rank, "a", "loss", 10.0 - step, float(step)), 101.0)
        move(run, rank, 4000, 4000, rate=6.6)
        run.apply(p.Output(rank, "a", "stdout", f"saved {rank}\n"), 109.0)
        run.apply(p.Finished(rank, "a", 611.0, p.Health()), 711.0)
    run.apply(p.RunEnded("a", "done", [], 611.0), 711.0)
    lines = as_plain(taken(run, 2, 711.0)).splitlines()
    assert lines[0].startswith("train: done  2 of 2 ranks finished in 10:11 on local")
    assert lines[1].split() == ["rank", "state", "step", "step/s", "loss", "last", "line"]
    assert re.fullmatch(r" +0  ✓ done +4,000 / 4,000 +6\.6  █[▁-█]{10}▁ 1  saved 0", lines[2])


def trained() -> RunView:
    """A run of one rank with a loop in a loop, three metrics, and what it uses."""
    run = begun(1)
    for bar, label, step, total in ((1, "epoch", 1, 3), (2, "batch \x1b[31mof all that there is", 12, 30)):
        run.apply(p.Progress(0, "a", bar, label, step, total, False, 5.0), 110.0)
    for name, value in (("acc", 0.75), ("loss", 0.5), ("lr", 0.001)):
        run.apply(p.Metric(0, "a", name, value, 0.0), 110.0)
    run.apply(p.Usage(0, "a", None, 62, 3 * 1024**3), 110.0)
    return run


def test_a_row_names_the_outer_loop_and_the_inner_and_shows_several_metrics() -> None:
    shot = taken(trained(), 1)
    _, titles, row = as_plain(shot, 120).splitlines()
    assert titles.split()[:-2] == ["rank", "state", "step", "step/s", "loss", "acc", "lr", "cpu", "memory"]
    assert re.search(r" epoch 1 / 3 › batch of all th… 12 / 30  +5\.0  ▁{12} 0\.5  0\.75  0\.001 +62 %", row)
    assert "<td>epoch 1 / 3 › batch of all th… 12 / 30</td>" in as_html(shot)
    told = "epoch 1 / 3 › batch of all th… 12 / 30 at 5.0 step/s, 9.6 s left, loss 0.5, acc 0.75, lr 0.001"
    assert progress_line(shot) == f"train: 10 s, {told}"


def test_a_column_that_does_not_fit_is_left_out_whole() -> None:
    _, titles, row = as_plain(taken(trained(), 1)).splitlines()
    assert titles.split() == ["rank", "state", "step", "step/s", "loss", "acc", "lr", "cpu"]
    assert row.endswith(" 62 %")


def test_the_label_of_a_bar_is_shown_where_report_tells_the_same_steps() -> None:
    run = begun(1)
    run.apply(p.Progress(0, "a", 1, "training", 5, 20, False, 5.0), 110.0)
    run.apply(p.Progress(0, "a", 0, "step", 4, None, False, 5.0), 110.0)
    assert " training 5 / 20 " in as_plain(taken(run, 1))


def test_plain_text_keeps_within_its_width_and_its_alphabet() -> None:
    run = begun()
    run.apply(p.Output(0, "a", "stdout", "ü" * 500), 101.0)
    move(run, 0, 10)
    text = as_plain(taken(run), 100, unicode=False)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 100


def test_in_a_terminal_without_utf_8_a_course_still_rises_and_no_text_ends_the_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = begun(1)
    for step in range(12):
        run.apply(p.Metric(0, "a", "loss", float(step), float(step)), 101.0 + step)
    assert " _..,--==+**# 11" in as_plain(taken(run, 1), 100, unicode=False)
    terminal = io.TextIOWrapper(io.BytesIO(), "latin-1", write_through=True)
    monkeypatch.setattr("sys.stdout", terminal)
    show(("stdout", "… 2 × ▁█ é 🙂\n"))
    assert terminal.buffer.getvalue().decode("latin-1") == ". 2 x _# é \\U0001f642\n"  # type: ignore[attr-defined]


def test_of_many_ranks_those_are_listed_that_are_behind() -> None:
    run = begun(1024)
    for rank in range(1024):
        move(run, rank, 50 + rank % 7)
    move(run, 517, 3)
    text = as_plain(taken(run, 1024))
    assert len(text.splitlines()) == ROWS + 3
    assert " 517 " in text
    assert f"{1024 - ROWS} more ranks" in text
    assert len(as_html(taken(run, 1024))) < 20_000


def test_one_line_tells_of_the_slowest_rank() -> None:
    run = begun(2)
    move(run, 0, 90)
    move(run, 1, 40)
    run.apply(p.Metric(0, "a", "loss", 1.5, 0.0), 101.0)
    run.apply(p.Metric(1, "a", "loss", 1.25, 0.0), 101.0)
    line = progress_line(taken(run, 2, 112.0))
    assert line == "train: 12 s, slowest, rank 1: step 40 / 100 at 5.0 step/s, 12 s left, loss 1.25 to 1.5"


def test_a_display_holds_every_form_and_the_browsers_is_a_snapshot() -> None:
    run = begun()
    move(run, 0, 10)
    shown = picture.bundle(taken(run))
    assert set(shown) == {picture.MIME, "text/html", "text/plain"}
    assert msgspec.convert(shown[picture.MIME], Snapshot) == taken(run)


def test_a_widget_is_updated_in_place_and_gone_from_the_saved_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, object]] = []
    run = begun()
    move(run, 0, 10)
    monkeypatch.setattr(picture, "WIDGET_SECONDS", 0.0)
    drawn = picture.DisplayPicture(
        run, lambda: taken(run), lambda data, name, update: shown.append(data), lambda _: None
    )
    drawn.turn(over=False)
    widget = drawn._widget
    assert widget is not None
    assert shown[0][VIEW] == {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    move(run, 0, 20)
    drawn.turn(over=False)
    assert widget.shot["ranks"][0]["loops"][0]["step"] == 20
    assert len(shown) == 1
    run.apply(p.RunEnded("a", "done", [], 10.0), 110.0)
    drawn.turn(over=True)
    assert set(shown[1]) == {picture.MIME, "text/html", "text/plain"}


def test_widgets_are_for_front_ends_without_our_extension() -> None:
    assert not wants_widget({})
    assert wants_widget({"__vsc_ipynb_file__": "/home/me/train.ipynb"})


def test_a_short_run_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    run = begun()
    block = picture.BlockPicture(run, lambda: taken(run))
    assert block.turn(over=False) is not None
    run.apply(p.RunEnded("a", "done", [], 0.1), 100.6)
    block.turn(over=True)
    assert out.getvalue() == ""


def test_in_a_terminal_text_comes_before_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    run = begun(1)
    move(run, 0, 10)
    block = picture.BlockPicture(run, lambda: taken(run, 1))
    block.turn(over=False)
    block.hide()
    out.write("[rank 0] hello\n")
    block.turn(over=False)
    first, text, again = out.getvalue().partition("[rank 0] hello\n")
    back = "\r\x1b[3A\x1b[J"  # from the start of the line, for the terminal may have written ^C there
    assert first.endswith(back)
    assert text
    assert again == first.removesuffix(back)


def test_in_a_terminal_a_wait_is_told_before_the_block_too(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    run = Run(cast(Session, None), "a")
    run.view = begun(1)
    move(run.view, 0, 10)
    stalled = p.Stalled("a", [p.RankStack(0, "running", p.Whereabouts(4, "", "barrier"))], [p.RankStack(1, "running")])
    run.take(stalled, 110.0)

    def put(part: Part) -> None:
        out.write(f"told {part}\n")
        run.take(p.RunEnded("a", "done", [], 1.0), 111.0)

    follow(run, TextView(1), picture.BlockPicture(run.view, lambda: taken(run.view, 1)), False, False, put)
    first, told, again = out.getvalue().partition("told ")
    assert first.endswith("\x1b[J") and "barrier" in again and told
    assert again.count("rank  state") == again.count("\x1b[J") + 1  # the last one stays


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0.0 s"), (0.44, "0.4 s"), (12.3, "12 s"), (59.6, "1:00"), (139, "2:19"), (6067, "1:41:07"), (None, "–")],
)
def test_durations(seconds: float | None, told: str) -> None:
    assert numbers.duration(seconds) == told


@pytest.mark.parametrize(
    ("per_second", "told"), [(6.62, "6.6"), (31.4, "31"), (0, "0"), (None, "–"), (0.05, "20 s/step"), (1234.5, "1,234")]
)
def test_rates(per_second: float | None, told: str) -> None:
    assert numbers.rate(per_second) == told


@pytest.mark.parametrize(
    ("number", "told"),
    [(1.84234, "1.842"), (0.412, "0.412"), (118402.0, "118,402"), (3e-4, "0.0003"), (float("nan"), "nan")],
)
def test_values(number: float, told: str) -> None:
    assert numbers.value(number) == told


@given(st.lists(st.floats()))
def test_a_course_of_any_numbers_can_be_drawn(values: list[float]) -> None:
    line = numbers.sparkline(values, -1.0, 1.0)
    assert len(line) in (0, 12)
