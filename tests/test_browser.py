"""What people see and press: a real JupyterLab, real ranks, a real browser; also with the kernel busy or dead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from modal_magic import registry
from modal_magic.sessions.session import Session
from tests.bench.simulated import STEPS, simulate
from tests.support.browser import TOKEN, Lab, chromium, command, jupyter_lab, open_book, step_of
from tests.support.eventually import until

pytestmark = [pytest.mark.patient, pytest.mark.browser, pytest.mark.timeout(240)]

LONG = """%%modal_distributed --replicas 4 --backend local --framework none --session {name}
import math, time, modal_magic
from tqdm import tqdm
for step in tqdm(range(12000)):
    time.sleep(0.02)
    modal_magic.report(step=step, total=12000, loss=3 * math.exp(-step / 300) + 0.1 * rank)"""
HOSTILE = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>\\x1b]0;title\\x07\\x1b[2J"
FAILING = f"""%%modal_distributed --replicas 2 --backend local --framework none --session failing
import os, time, modal_magic
for step in modal_magic.progress(range(100)):
    while step == 50 and not os.path.exists("go"): time.sleep(0.02)
    print("{HOSTILE}")
    if step == 50 and rank == 1:
        raise ValueError("{HOSTILE}")"""


@pytest.fixture(scope="module")
def lab(runtime_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A JupyterLab that the tests of this module share; the sessions of its notebooks are stopped at the end."""
    with jupyter_lab(tmp_path_factory.mktemp("lab")) as opened:
        yield opened
        for name in registry.names():
            Session.attach(name).stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page. What its own code complains of fails the test."""
    errors: list[str] = []
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(60_000)
    made = context.new_page()
    made.on("pageerror", lambda error: errors.append(str(error)))
    yield made
    context.close()
    assert [error for error in errors if "modal" in error] == []


def begin(page: Page, lab: Lab, name: str) -> str:
    """Open a notebook with a long run, and wait until its bars move. Returns its file."""
    book = lab.write(f"{name}.ipynb", "%load_ext modal_magic", LONG.format(name=name))
    open_book(page, lab, book)
    command(page, "notebook:run-all-cells")
    until(lambda: step_of(page, 3) > 5)
    return book


def crash(page: Page, lab: Lab, book: str) -> None:
    """Kill the kernel of a notebook, and take note of JupyterLab's word that it has another."""
    lab.kill_kernel(book)
    page.locator(".jp-Dialog .jp-mod-accept").click()


def moves(page: Page, rank: int) -> bool:
    """Whether the bar of a rank moves on in the cell."""
    before = until(lambda: step_of(page, rank))
    return until(lambda: step_of(page, rank) > before + 10)


def state(lab: Lab, name: str) -> str:
    """The state of the newest run of a session, as the server tells it."""
    sessions = lab.ask("modal-magic/api/sessions")
    return str(sessions[name]["run_state"]) if name in sessions else "gone"


def test_bars_move_and_go_on_after_a_reload_with_the_kernel_busy(page: Page, lab: Lab) -> None:
    begin(page, lab, "reloaded")
    assert page.locator(".jp-OutputArea .row").count() == 4
    assert all(moves(page, rank) for rank in range(4))
    bar = page.locator(".jp-OutputArea .row[data-rank='0'] [role=progressbar]")
    assert float(bar.get_attribute("aria-valuenow") or 0) > 0
    text = page.locator(".jp-OutputArea").last.inner_text()
    assert "it/s]" not in text, "the bars of tqdm are drawn, not written"
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    seen = step_of(page, 0)
    page.reload()
    until(lambda: step_of(page, 0) > seen + 10)
    kernel = page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status ?? ''")
    assert kernel != "dead"
    assert moves(page, 2)


def test_after_a_crash_of_the_kernel_the_run_goes_on_and_is_interrupted_from_the_cell(page: Page, lab: Lab) -> None:
    book = begin(page, lab, "restarted")
    crash(page, lab, book)
    assert moves(page, 1)
    assert state(lab, "restarted") == "running"
    page.locator(".jp-OutputArea").get_by_role("button", name="Interrupt").click()
    until(lambda: state(lab, "restarted") == "interrupted")
    until(lambda: "Interrupted" in page.locator(".jp-OutputArea .row[data-rank='2']").inner_text())


def test_the_panel_interrupts_a_run_while_the_kernel_is_busy(page: Page, lab: Lab) -> None:
    begin(page, lab, "busy")
    command(page, "modal-magic:open")
    panel = page.locator("[id='modal-magic:sessions']")
    panel.get_by_role("row", name="busy").click()
    until(lambda: panel.locator(".row").count() == 4)
    item = page.locator(".mm-status")
    until(lambda: item.inner_text().startswith("Distributed: "))
    page.evaluate("() => void jupyterapp.commands.execute('settingeditor:open', {query: 'Distributed sessions'})")
    setting = page.get_by_label("Running sessions in the status bar")
    setting.uncheck()
    until(lambda: item.count() == 0)
    setting.check()
    until(lambda: item.is_visible() and re.fullmatch(r"Distributed: \d+ running", item.inner_text()))
    page.get_by_role("tab", name="busy.ipynb").click()
    panel.get_by_role("button", name="Interrupt").click()
    until(lambda: state(lab, "busy") == "interrupted")
    until(lambda: "RunInterrupted" in page.locator(".jp-OutputArea").last.inner_text())


def inserted(page: Page) -> str:
    """The text of the notebook's active cell."""
    model = "window.jupyterapp.shell.currentWidget.content.activeCell.model"
    return str(page.evaluate(f"() => {model}.sharedModel.getSource()"))


def test_a_session_whose_kernel_is_dead_is_shown_attached_to_and_stopped(page: Page, lab: Lab) -> None:
    crash(page, lab, begin(page, lab, "orphan"))
    command(page, "modal-magic:open")
    panel = page.locator("[id='modal-magic:sessions']")
    until(lambda: "Kernel gone, still running" in panel.get_by_role("row", name="orphan").inner_text())
    panel.get_by_role("row", name="orphan").get_by_role("button", name="Attach").click()
    assert inserted(page) == "%modal_attach orphan"
    panel.get_by_role("button", name="New").click()
    panel.get_by_label("Replicas").fill("3")
    panel.get_by_label("Name").fill("next")
    panel.get_by_role("button", name="Insert into notebook").click()
    assert inserted(page) == "%modal_distributed --replicas 3 --backend local --session next"
    panel.get_by_label("Where").select_option("Modal")
    panel.get_by_label("GPU").fill("H100")
    panel.get_by_role("button", name="Insert into notebook").click()
    assert inserted(page) == "%modal_distributed --replicas 3 --gpu H100 --session next"
    panel.get_by_role("row", name="orphan").click()
    panel.locator(".hd").get_by_role("button", name="Stop").click()
    assert "Variables on 4 ranks are lost" in panel.get_by_role("alertdialog").inner_text()
    panel.get_by_role("alertdialog").get_by_role("button", name="Stop").click()
    until(lambda: panel.get_by_role("row", name="orphan").count() == 0)
    until(lambda: "orphan" not in registry.names())


def test_a_failure_is_on_top_and_what_ranks_write_is_text(page: Page, lab: Lab) -> None:
    book = lab.write("failing.ipynb", "%load_ext modal_magic", FAILING)
    open_book(page, lab, book)
    command(page, "notebook:run-all-cells")
    row = page.locator(".jp-OutputArea .row[data-rank='1']")
    row.wait_for()  # a run that is over before its first picture is due has none
    until(lambda: state(lab, "failing") == "running")
    (lab.folder / "go").touch()
    alert = page.locator(".jp-OutputArea [role=alert]")
    alert.wait_for()
    assert alert.locator(".what").inner_text().startswith("Rank 1 raised ValueError: <script>")
    assert "at cell line 7" in alert.locator(".what").inner_text()
    assert "correct line 7" in alert.inner_text()
    until(lambda: "Failed" in row.inner_text())
    lines = page.locator(".jp-OutputArea .lines .ll")

    def opened() -> bool:  # the row may be drawn anew, for the end of the run, between the look and the click
        if row.get_attribute("aria-expanded") != "true":
            row.click()
        return lines.count() > 10

    until(opened)
    assert "<script>window.hit = 1</script><img src=x" in lines.first.inner_text()
    assert page.evaluate("() => window.hit") is None
    assert page.locator(".mm script, .mm img").count() == 0


def focused(page: Page) -> str:
    """What has the focus in the panel, where its ring can be seen: its label or its text. Empty where nothing has."""
    return str(
        page.evaluate("""() => {
            const on = document.activeElement;
            return on.closest("[id='modal-magic:sessions']") && getComputedStyle(on).outlineStyle !== 'none'
                ? on.getAttribute('aria-label') ?? on.innerText.trim() : '';
        }""")
    )


def tab_to(page: Page, label: str, key: str = "Tab") -> None:
    """Go to what has this label, from one stop in the panel to the next."""
    for _ in range(30):
        if (here := focused(page)).startswith(label):
            return
        assert here, f"the focus was lost on the way to {label}"
        page.keyboard.press(key)
    raise AssertionError(f"{label} is not reached by the keyboard")


def pids(lab: Lab, name: str) -> list[int]:
    """The processes of the ranks, as the server tells them."""
    return [row["pid"] for row in lab.ask("modal-magic/api/sessions")[name]["ranks"]]


def test_cell_and_panel_are_worked_by_the_keyboard_alone_and_the_panel_outlasts_a_reload(page: Page, lab: Lab) -> None:
    begin(page, lab, "keys")
    page.locator(".jp-OutputArea .row[data-rank='0']").focus()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    in_cell = page.locator(".jp-OutputArea .row[aria-expanded=true]")
    assert in_cell.get_attribute("data-rank") == "2"
    page.keyboard.press("ArrowLeft")
    until(lambda: in_cell.count() == 0)

    command(page, "modal-magic:open")
    panel = page.locator("[id='modal-magic:sessions']")
    until(lambda: panel.locator(".row").count())
    first = until(lambda: found if len(set(found := pids(lab, "keys")) - {0}) == 4 else None)

    panel.get_by_role("button", name="New").focus()
    page.keyboard.press("Tab")
    for key in (*["ArrowUp"] * 9, *["ArrowDown"] * 9):
        if not focused(page).startswith("keys"):
            page.keyboard.press(key)
    tab_to(page, "Interrupt")
    page.keyboard.press("Enter")
    until(lambda: panel.get_by_role("button", name="Interrupt").is_disabled())
    page.keyboard.press("ArrowDown")  # the focus went on to the ranks
    page.keyboard.press("Enter")
    opened = panel.locator(".row[aria-expanded=true]")
    assert opened.get_attribute("data-rank") == "1"

    tab_to(page, "Restart", "Shift+Tab")
    page.keyboard.press("Enter")
    assert focused(page) == "Keep", "a key that is held down does not lose variables"
    page.keyboard.press("Escape")
    assert focused(page) == "Restart"
    page.keyboard.press("Enter")
    tab_to(page, "Only rank 1", "Shift+Tab")
    page.keyboard.press("Enter")
    panel.get_by_text("Restarted: rank 1 is fresh, without variables.").wait_for()
    second = until(lambda: found if (found := pids(lab, "keys"))[1] not in (0, first[1]) else None)
    assert [*second[:1], *second[2:]] == [*first[:1], *first[2:]]
    assert focused(page) == "Restart"
    page.keyboard.press("Enter")
    tab_to(page, "Restart", "Shift+Tab")
    page.keyboard.press("Enter")
    panel.get_by_text("Restarted: 4 fresh ranks, without variables.").wait_for()
    until(lambda: not {*pids(lab, "keys")} & {*second, 0})

    tab_to(page, "Start-up")
    page.keyboard.press("Enter")
    layout = {"session": "keys", "form": False, "rank": 1, "startUp": True}

    def kept() -> bool:
        data = lab.ask("lab/api/workspaces/keys")["data"]
        left = data.get("layout-restorer:data", {}).get("left", {})
        return data.get("modal-magic:sessions") == layout and left.get("current") == "modal-magic:sessions"

    until(kept)
    page.reload()
    panel.locator(".lanes").wait_for()
    assert panel.locator("[aria-selected=true]").get_attribute("data-session") == "keys"
    assert opened.get_attribute("data-rank") == "1"


def test_in_notebook_7_the_cell_is_live_and_the_panel_opens(page: Page, lab: Lab) -> None:
    book = lab.write("seven.ipynb", "%load_ext modal_magic", LONG.format(name="seven"))
    page.goto(f"{lab.url}/notebooks/{book}?token={TOKEN}")
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel")
    command(page, "notebook:run-all-cells")
    until(lambda: step_of(page, 3) > 5)
    assert moves(page, 1)
    command(page, "modal-magic:open")
    panel = page.locator("[id='modal-magic:sessions']")
    panel.get_by_role("row", name="seven").click()
    until(lambda: panel.locator(".chart path.line").count() == 4)
    panel.get_by_role("button", name="Interrupt").click()
    until(lambda: state(lab, "seven") == "interrupted")


def test_64_ranks_are_a_grid_and_a_list_in_the_panel(page: Page, lab: Lab) -> None:
    page.goto(f"{lab.url}/lab/workspaces/crowd?token={TOKEN}")
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget")
    with simulate(8, 8) as session:
        run = session.run(f"{STEPS}60")
        command(page, "modal-magic:open")
        panel = page.locator("[id='modal-magic:sessions']")
        panel.get_by_role("row", name=session.name).click()
        canvas = panel.locator("canvas")
        until(lambda: "64 Running" in (canvas.get_attribute("aria-label") or "") if canvas.count() else "")
        assert "Running" in panel.locator(".vr[role=listitem]").nth(9).inner_text()
        panel.get_by_role("button", name="New").click()
        panel.get_by_role("button", name="Insert into notebook").click()
        panel.get_by_text("No notebook is open to write this into: %modal_distributed").wait_for()
        until(lambda: panel.locator(".chart path.band").count())
        run.wait(120)


def test_the_saved_notebook_tells_the_end_without_our_extension(page: Page, lab: Lab) -> None:
    source = LONG.format(name="saved").replace("12000", "60")
    open_book(page, lab, lab.write("saved.ipynb", "%load_ext modal_magic", source))
    command(page, "notebook:run-all-cells")
    until(lambda: page.locator(".jp-OutputArea .row[data-rank='0']").count())
    until(lambda: "Done" in page.locator(".jp-OutputArea .row[data-rank='0']").inner_text())

    def saved() -> Any:
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        book = json.loads((lab.folder / "saved.ipynb").read_text())
        return book if "4 of 4 ranks finished" in json.dumps(book) else None

    book = until(saved)
    (output,) = [output for output in book["cells"][1]["outputs"] if output["output_type"] == "display_data"]
    assert "4 of 4 ranks finished" in "".join(output["data"]["text/html"])
    assert "60 / 60" in "".join(output["data"]["text/plain"])
