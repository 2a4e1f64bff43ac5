"""The views in a browser, over snapshots that are hard to bring about: nothing overflows, axe-core finds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.support import gallery as g
from tests.support.browser import ROOT, chromium

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
LOOK = """() => axe.run(document, {resultTypes: ['violations']}).then(found =>
    found.violations.flatMap(rule => rule.nodes.map(node => rule.id + ': ' + node.html.slice(0, 120))))"""
STATIC = ROOT / "modal_magic" / "static"
START_WIDGET = """async ({code, shot}) => {
    const listeners = {};
    window.asked = {};
    window.model = {get: () => shot, on: (event, call) => { listeners[event] = call; }, off: () => {},
                    set: next => { shot = next; listeners['change:shot'](); },
                    send: asked => { window.asked[asked.what] = asked; },
                    answer: (what, value) => listeners['msg:custom']({number: window.asked[what].number, value})};
    const module = await import(URL.createObjectURL(new Blob([code], {type: 'text/javascript'})));
    window.end = module.default.render({model: window.model, el: document.getElementById('place')});
}"""
OUTSIDE = """() => [...document.querySelectorAll('.mm *')].filter(each => {
    const edge = document.querySelector('.mm').getBoundingClientRect().right + 1;
    const box = each.getBoundingClientRect();
    return box.width > 1 && box.right > edge && !each.closest('.lines, .vs, .tb');
}).map(each => each.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundle of the views lies."""
    return tmp_path_factory.mktemp("gallery")


def violations(page: Page) -> list[str]:
    """What axe-core complains of."""
    page.add_script_tag(path=AXE)
    return list(page.evaluate(LOOK))


def opened(page: Page, name: str) -> None:
    """Press what can be opened."""
    if name != "many":
        page.locator(".row").nth(2).click()
    page.get_by_role("button", name="Stacks").click()
    if page.locator(".start").count():
        page.locator(".start").click()


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_violation_in_any_view(browser: Browser, folder: Path, dark: bool) -> None:
    with g.gallery(browser, folder, dark) as page:
        for name in ("running", "stuck", "failed", "many"):
            g.show(page, g.SHOTS[name]())
            opened(page, name)
            assert violations(page) == [], name
        g.clear(page)
        page.set_viewport_size({"width": 336, "height": 900})
        g.show_panel(page, g.running(), g.idle("sweep"), g.idle("orphan", 0))
        assert violations(page) == []


def test_nothing_reaches_out_of_the_view_at_any_width(browser: Browser, folder: Path) -> None:
    with g.gallery(browser, folder) as page:
        for name in ("running", "stuck", "failed", "many"):
            g.show(page, g.SHOTS[name]())
            for width in (1200, 900, 700, 520, 400, 300, 236):
                page.set_viewport_size({"width": width, "height": 900})
                page.evaluate("() => view.update(view._content)")
                assert page.evaluate(OUTSIDE) == [], (name, width)


@pytest.mark.parametrize("dark", [False, True])
def test_the_widget_of_other_front_ends_draws_what_the_kernel_tells(browser: Browser, dark: bool) -> None:
    page = browser.new_context(
        color_scheme="dark" if dark else "light", viewport={"width": 800, "height": 900}
    ).new_page()
    page.set_content("<html lang=en><title>widget</title><body><main><h1>cell</h1><div id=place></div></main></body>")
    page.add_style_tag(path=STATIC / "widget.css")
    page.evaluate(START_WIDGET, {"code": (STATIC / "widget.js").read_text(), "shot": g.given(g.running())["shot"]})
    assert page.locator(".row").count() == 4
    page.locator(".row").nth(2).click()
    page.wait_for_function("() => window.asked.log?.rank === 2")
    page.evaluate("() => model.answer('log', {lines: [[1, null, 2, 'stdout', 'loaded <b>']], total: 1})")
    page.locator(".log .lines .ll").wait_for()
    assert page.locator(".log .lines").inner_text().strip() == "loaded <b>"
    page.get_by_role("button", name="Stacks").click()
    page.wait_for_function("() => window.asked.stacks")
    page.evaluate("stacks => model.answer('stacks', stacks)", g.given(g.running())["stacks"])
    page.locator(".tree .fr").first.wait_for()
    assert violations(page) == []
    page.get_by_role("button", name="Interrupt").click()
    page.wait_for_function("() => window.asked.interrupt")
    page.get_by_text("The kernel is busy, and hears this when its cell is over.").wait_for()
    page.evaluate("shot => model.set(shot)", g.given(g.many())["shot"])
    assert page.locator(".row b, .row .g-rk").all_inner_texts()[:4] == ["300", "517", "212", "846"]
    assert "992 more ranks" in page.locator(".rows").inner_text()
    assert page.evaluate(OUTSIDE) == []
    page.evaluate("() => end()")
    assert page.locator(".row").count() == 0
    page.context.close()


def test_in_forced_colours_and_without_motion_marks_and_words_remain(browser: Browser, folder: Path) -> None:
    forced: dict[str, Any] = {"forced_colors": "active", "reduced_motion": "reduce"}
    with g.gallery(browser, folder, **forced) as page:
        g.show(page, g.stuck())
        assert page.locator(".row").nth(3).inner_text().split("\n")[1].startswith("Straggler")
        bar, track = page.locator(".bar i").first, page.locator(".bar").first
        colour = "each => getComputedStyle(each).backgroundColor"
        assert bar.evaluate(colour) != track.evaluate(colour), "a bar can be told from its track"
        assert bar.evaluate("each => getComputedStyle(each).transitionDuration") == "0s"


def test_a_thousand_ranks_are_gone_through_by_the_keyboard_alone(browser: Browser, folder: Path) -> None:
    with g.gallery(browser, folder) as page:
        g.show(page, g.many())
        page.locator("canvas").focus()
        for key in ("Home", "ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
        facts = page.locator(".many [role=status]").first
        assert facts.inner_text().startswith("rank 33, node 4 · Running")
        page.keyboard.press("Enter")
        assert page.locator(".log").get_attribute("aria-label") == "log of rank 33"
        search = page.get_by_role("searchbox", name="rank, range of ranks, or node")
        search.fill("n64")
        assert page.locator(".vr[role=listitem]").count() == 8
        search.press("Escape")
        assert page.evaluate("() => document.activeElement === document.body")
        page.get_by_role("button", name="Straggler").click()
        search.fill("")
        assert page.locator(".vr[role=listitem] b").all_inner_texts() == ["517", "212", "846"]


def test_what_loses_variables_asks_once_and_escape_keeps_them(browser: Browser, folder: Path) -> None:
    with g.gallery(browser, folder, width=536) as page:
        g.show_panel(page, g.running(), g.idle("orphan", 0))
        page.get_by_role("button", name="Restart").click()
        question = page.get_by_role("alertdialog")
        assert "Restart? Variables on 4 ranks are lost." in question.inner_text()
        page.keyboard.press("Escape")
        assert question.count() == 0
        page.get_by_role("row", name="orphan").get_by_role("button", name="Stop").click()
        assert "Stop? Variables on 2 ranks are lost." in question.inner_text()
