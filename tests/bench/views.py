"""What the live views cost and how late they are: from a rank to the pixels, very many ranks, and sizes."""

from __future__ import annotations

import os
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from playwright.sync_api import Browser, Page

from modal_magic import registry
from modal_magic.sessions.session import Session
from tests.bench.figures import Bench, Row, at_most, median, milliseconds, percentile
from tests.bench.simulated import STEPS, simulate
from tests.bench.surroundings import ROOT
from tests.support.browser import TOKEN, Lab, chromium, command, jupyter_lab, open_book

__all__ = ["VIEWS"]

TICKS, RANKS, NODES, LOOKED = 80, 1024, 128, 10.0
WATCHED = float(os.environ.get("WATCH_SECONDS", "30"))
"""For so long the memory of a page is watched."""
SAY = f"""%%modal_distributed --replicas 4 --backend local --framework none --session seen
import time, modal_magic
time.sleep(2)
for tick in range({TICKS}):
    modal_magic.report(step=round(time.time() * 1000) % 10**9, total=10**9)
    time.sleep(0.15 + 0.01 * rank)"""
LOOK = """() => {
    window.seen = [];
    const last = {};
    const look = () => {
        for (const cell of document.querySelectorAll('.jp-OutputArea .row .g-step')) {
            const rank = cell.closest('.row').dataset.rank;
            const step = Number((cell.textContent.split('/')[0] ?? '').replace(/[^0-9]/g, ''));
            if (step && last[rank] !== step) {
                last[rank] = step;
                window.seen.push(Date.now() % 1e9 - step);
            }
        }
        requestAnimationFrame(look);
    };
    look();
}"""
FRAMES = """seconds => new Promise(done => {
    const frames = [];
    const end = performance.now() + seconds * 1000;
    let before = performance.now();
    const look = now => {
        frames.push(now - before);
        before = now;
        now < end ? requestAnimationFrame(look) : done(frames);
    };
    requestAnimationFrame(look);
})"""
LONG = """() => {
    window.long = [];
    new PerformanceObserver(list => window.long.push(...list.getEntries().map(each => each.duration)))
        .observe({type: 'longtask'});
}"""
UP = """() => {
    const look = () => {
        const app = window.jupyterapp;
        if (app && !window.up) {
            window.up = Infinity;
            app.restored.then(() => { window.up = performance.now(); });
        }
        const panel = document.querySelector('[id="modal-magic:sessions"] h2');
        if (panel && panel.getClientRects().length && !window.visible) window.visible = performance.now();
        requestAnimationFrame(look);
    };
    look();
}"""
LOOPS, STEPS_EACH = 9, 2_000_000
TQDM = f"""
import os, time
from tqdm import tqdm
def seconds(**options):
    began = time.process_time()
    for _ in tqdm(range({STEPS_EACH}), **options):
        pass
    return time.process_time() - began
pairs = [(seconds(), seconds(file=open(os.devnull, "w"), mininterval=0.1)) for _ in range({LOOPS})]
ours, plain = (min(times) for times in zip(*pairs))
print("ratio", ours / plain, ours / {STEPS_EACH})
"""


def lateness(browser: Browser, lab: Lab) -> list[Row]:
    """From `report` on a rank to the number in the page, by the one clock of this machine."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    open_book(page, lab, lab.write("seen.ipynb", "%load_ext modal_magic", SAY))
    page.evaluate(LOOK)
    command(page, "notebook:run-all-cells")
    page.wait_for_function(f"() => window.seen.length > {2 * TICKS}", timeout=60_000)
    found = sorted(each / 1000 for each in page.evaluate("() => window.seen") if each >= 0)
    page.close()
    return [
        at_most("`report` on a rank to the pixels, p50", median(found), 0.15, milliseconds, f"{len(found)} seen"),
        at_most("`report` on a rank to the pixels, p95", percentile(found, 95), 0.3, milliseconds),
    ]


def frames(page: Page) -> float:
    """The 95th percentile of the time between two frames (seconds)."""
    return percentile(page.evaluate(FRAMES, LOOKED), 95) / 1000


def messages(lab: Lab) -> float:
    """How many messages a second the server's stream of changes has, for one browser."""
    asked = urllib.request.Request(f"{lab.url}/modal-magic/api/events", headers={"Authorization": f"token {TOKEN}"})
    with urllib.request.urlopen(asked, timeout=10) as stream:
        stream.readline()  # the first has everything
        began, count = time.monotonic(), 0
        while time.monotonic() < began + LOOKED:
            count += stream.readline().startswith(b"data: ")
        return count / (time.monotonic() - began)


def kept(page: Page) -> list[float]:
    """What the page's scripts hold (bytes) after a collection of garbage: at eleven moments of `WATCHED`."""
    inside = page.context.new_cdp_session(page)
    inside.send("Performance.enable")
    found = []
    for moment in range(11):
        page.wait_for_timeout(WATCHED * 100 if moment else 0)
        inside.send("HeapProfiler.collectGarbage")
        metrics = {each["name"]: each["value"] for each in inside.send("Performance.getMetrics")["metrics"]}
        found.append(float(metrics["JSHeapUsedSize"]))
    inside.detach()
    return found


def crowd(browser: Browser, lab: Lab) -> list[Row]:
    """1,024 simulated ranks in the panel, beside an empty JupyterLab; what their gateway takes."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{lab.url}/lab/workspaces/crowd?token={TOKEN}")
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget")
    page.wait_for_timeout(3000)
    empty = frames(page)
    page.evaluate(LONG)
    with simulate(NODES, RANKS // NODES) as session:
        command(page, "modal-magic:open")
        page.wait_for_selector(".mm.panel .ses", timeout=20_000)
        run = session.run(f"{STEPS}{4 * LOOKED + WATCHED}")
        page.wait_for_selector(".mm.panel canvas", timeout=20_000)
        gateway = psutil.Process(session.connection.pid)
        began, before = time.monotonic(), sum(gateway.cpu_times()[:2])
        drawn = frames(page)
        share = (sum(gateway.cpu_times()[:2]) - before) / (time.monotonic() - began)
        told = messages(lab)
        long = page.evaluate("() => window.long")
        held = kept(page)  # to collect garbage is a long task
        run.interrupt()
        run.settled(60)
    page.close()
    return [
        at_most(
            "1,024 simulated ranks, 4 updates a second each: time between frames, p95",
            drawn,
            1.5 * empty,
            milliseconds,
            f"empty JupyterLab {milliseconds(empty)}",
        ),
        at_most(
            "their panel, from its opening: tasks over 50 ms",
            len(long),
            0,
            "{:.0f}".format,
            ", ".join(f"{each:.0f} ms" for each in long),
        ),
        at_most("their changes, in messages a second to a browser", told, 10, "{:.1f}".format),
        at_most(
            f"their page's memory after {WATCHED:.0f} s, as a share of that before",
            held[-1] / held[0],
            1.1,
            "{:.2f}".format,
            f"{held[0] / 1e6:.1f} MB, at most {max(held) / 1e6:.1f} MB",
        ),
        at_most("their gateway, in cores", share, 0.5, lambda value: f"{value:.2f}"),
    ]


def opening(browser: Browser, lab: Lab) -> Row:
    """With the panel open when the page is loaded: from JupyterLab's word that it is up to the panel in the page."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{lab.url}/lab/workspaces/opening?token={TOKEN}")
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget")
    command(page, "modal-magic:open")
    page.wait_for_selector(".mm.panel h2")
    page.wait_for_timeout(3000)  # the layout is saved a moment after it has changed
    page.add_init_script(f"({UP})()")
    found = []
    for _ in range(3):
        page.reload()
        page.wait_for_function("() => window.visible && Number.isFinite(window.up)", timeout=60_000)
        found.append(max(0.0, page.evaluate("() => window.visible - window.up")) / 1000)
    page.close()
    return at_most("panel in the page, after JupyterLab is up", median(found), 0.3, milliseconds)


def bars() -> Row:
    """An iteration of a tqdm bar that is told, beside one that is written to a file."""
    with Session(replicas=1, backend="local", framework="none") as session:
        _, ratio, each = session.run(TQDM).wait(60).ranks[0].output.split()
    told = f"{float(each) * 1e9:.0f} ns each"
    return at_most(
        "an iteration of tqdm on a rank, as a share of plain tqdm's", float(ratio), 1.1, "{:.2f}".format, told
    )


def sizes() -> list[Row]:
    """What a browser loads, minified."""
    package = ROOT / "modal_magic"
    scripts = sum(path.stat().st_size for path in (package / "labextension").rglob("*.js"))
    widget = (package / "static" / "widget.js").stat().st_size
    show = "{:.1f} kB".format
    return [
        at_most("labextension", scripts / 1000, 120, show),
        at_most("widget", widget / 1000, 30, show),
    ]


def run() -> list[Row]:
    """All of them, in one JupyterLab and one browser."""
    rows = [*sizes(), bars()]
    with tempfile.TemporaryDirectory() as name, chromium() as browser, jupyter_lab(Path(name)) as lab:
        rows += lateness(browser, lab)
        for session in registry.names():
            Session.attach(session).stop()
        rows += [opening(browser, lab), *crowd(browser, lab)]
    return rows


VIEWS = Bench(
    name="views",
    limit=280 + int(WATCHED),
    how=(
        f"A real JupyterLab in Chromium, on the same cores as all else. 4 ranks report the time as their step {TICKS} "
        "times; the page looks at each frame which number each row shows, so the delay is to the frame that has it. "
        f"{RANKS:,} ranks: the real gateway and server, agents whose workers exist in words only, each of which tells "
        f"of a step, a metric and its use 4 times a second; frames are looked at for {LOOKED:.0f} s, and the "
        f"memory of the page, after a collection of garbage, for {WATCHED:.0f} s (`WATCH_SECONDS`). tqdm: "
        f"{STEPS_EACH:,} iterations that do nothing, {LOOPS} times by turns with a bar that writes to /dev/null; "
        "the least time of the processor of each."
    ),
    run=run,
)
