"""The real views over given snapshots, in Chromium, within JupyterLab's own colours: for pictures and checks.

`python -m tests.support.gallery FOLDER` writes a picture of each.
"""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jupyterlab
import msgspec
from playwright.sync_api import Browser, Page

from modal_magic import protocol as p
from modal_magic.view.model import RunView
from modal_magic.view.snapshot import SessionFacts, Snapshot
from modal_magic.view.taking import snapshot
from tests.support.browser import ROOT, chromium

GIB = 1024**3
THEMES = Path(jupyterlab.__file__).parent / "themes" / "@jupyterlab"
STYLE = ROOT / "labextension" / "style" / "base.css"
NOW = 1_000_139.0
BEGAN = 1_000_000.0


def begun(ranks: int, source: str = "pass") -> RunView:
    """A run that has gone on for 139 s."""
    run = RunView("a")
    run.apply(p.Submitted("a", list(range(ranks)), 3, source), BEGAN)
    for rank in range(ranks):
        run.apply(p.Started(rank, "a"), BEGAN)
    return run


def train(run: RunView, rank: int, step: int, total: int, rate: float = 6.6, line: int = 7) -> None:
    """A rank that trains: where it is, what it uses, and how its loss has gone."""
    chance = random.Random(rank)
    for at in range(0, step, max(1, step // 90)):
        loss = 1.8 + 1.7 * math.exp(-at / step * 4) + chance.gauss(0, 0.03)
        run.apply(p.Metric(rank, "a", "loss", loss, float(at)), BEGAN)
    run.apply(p.Progress(rank, "a", 1, "train", step, total, False, rate), NOW)
    where = p.Whereabouts(line=line, function="backward")
    memory = int((31 + chance.random()) * GIB)
    used = p.Usage(rank, "a", where, chance.randint(55, 72), 3 * GIB, chance.randint(90, 97), memory, 40 * GIB)
    run.apply(used, NOW)
    run.apply(p.Output(rank, "a", "stdout", f"step {step} loss {loss:.3f} lr 2.91e-04 tok/s 118,{rank:03}\n"), NOW)


def waits(run: RunView, rank: int, since: float, line: int = 7) -> p.RankStack:
    """A rank that waits in a collective."""
    where = p.Whereabouts(line, "train_step", "all_reduce", "", 77, [], since)
    run.apply(p.Usage(rank, "a", where, 3, 3 * GIB, 100, 31 * GIB, 40 * GIB), NOW)
    return p.RankStack(rank, "running", where)


def taken(run: RunView, ranks: int, where: str, per_node: int = 1, name: str = "train", **facts: Any) -> Snapshot:
    """The session's snapshot."""
    return snapshot(SessionFacts(name, where, ranks, per_node, pids=tuple(range(211, 211 + ranks)), **facts), run, NOW)


def running(ranks: int = 4) -> Snapshot:
    """A few ranks that train."""
    run = begun(ranks)
    for rank in range(ranks):
        train(run, rank, 884 - (rank == 2), 4000)
    stages = [p.Stage("build", BEGAN - 5, 0.2)]
    for node in range(ranks):
        queue, restore = 2.5 + node % 4 / 5, 1.1 + node % 3 / 10
        stages += p.Stage("queue", BEGAN - 4.8, queue, node), p.Stage("restore", BEGAN - 4.8 + queue, restore, node)
        stages += (p.Stage("rendezvous", BEGAN - 0.4, 0.1, node),)
    return taken(run, ranks, f"Modal {ranks}×A100", lease=1800.0, stages=tuple(stages))


def stuck() -> Snapshot:
    """Three ranks wait for the fourth."""
    run = begun(4)
    for rank in range(4):
        train(run, rank, 77 - (rank == 3), 200, 0.0)
    waiting = [waits(run, rank, 12.0) for rank in range(3)]
    where = p.Whereabouts(line=18, function="load_batch", since=12.0)
    run.apply(p.Usage(3, "a", where, 1, 3 * GIB, 0, 31 * GIB, 40 * GIB), NOW)
    run.apply(p.Stalled("a", waiting, [p.RankStack(3, "running", where)]), NOW)
    return taken(run, 4, "Modal 4×A100", lease=1800.0)


TRACEBACK = """\
---------------------------------------------------------------------------
RuntimeError                              Traceback (most recent call last)
Cell In[3], line 10
      8     opt.step(); opt.zero_grad(set_to_none=True)
      9     seen = count_tokens(y)
---> 10     dist.all_reduce(seen)
     11     report(step=step, loss=loss.item(), tokens=seen.item())

File /usr/lib/python3/site-packages/torch/distributed/c10d_logger.py:81, in wrapper(*args, **kwargs)
     80 try:
---> 81     return func(*args, **kwargs)

File /usr/lib/python3/site-packages/torch/distributed/distributed_c10d.py:2935, in all_reduce(tensor, op, group)
   2934 else:
-> 2935     work = group.allreduce([tensor], opts)

RuntimeError: No backend type associated with device type cpu"""


def failed() -> Snapshot:
    """One rank has raised."""
    run = begun(4)
    for rank in range(4):
        train(run, rank, 206, 4000)
    error = p.RemoteError("RuntimeError", "No backend type associated with device type cpu", TRACEBACK.split("\n"), 10)
    run.apply(p.Failed(2, "a", 31.0, p.Health(), error), BEGAN + 31)
    for rank in (0, 1, 3):
        run.apply(p.Interrupted(rank, "a", 31.0, p.Health(), "all_reduce at cell line 10"), BEGAN + 31.1)
    run.apply(p.RunEnded("a", "failed", [2], 31.2), BEGAN + 31.2)
    return taken(run, 4, "Modal 4×A100", lease=1800.0)


def many(ranks: int = 1024) -> Snapshot:
    """Very many ranks, of which three are waited for and one is lost."""
    run, chance = begun(ranks), random.Random(1)
    late = {517 % ranks: 12, 212 % ranks: 6, 846 % ranks: 5}
    for rank in range(ranks):
        behind = late.get(rank, chance.choice([0, 0, 0, 0, 1, 1, 2]) if rank % 37 else 3)
        run.apply(p.Progress(rank, "a", 1, "train", 1192 - behind, 20_000, False, 3.1 - behind / 10), NOW)
        run.apply(p.Metric(rank, "a", "loss", 2.1 + chance.gauss(0, 0.05), 1192.0), NOW)
        run.apply(p.Usage(rank, "a", p.Whereabouts(line=33, function="forward"), 60, 3 * GIB), NOW)
    waiting = [waits(run, rank, 12.0) for rank in range(ranks) if (rank // 32) % 4 == 2 and rank not in late]
    missing = [p.RankStack(rank, "running", p.Whereabouts(line=18, function="load_batch")) for rank in late]
    run.apply(p.Stalled("a", waiting, missing), NOW)
    run.apply(p.Lost(300 % ranks, "was killed by SIGKILL"), NOW)
    return taken(run, ranks, f"Modal {ranks // 8}×H100:8", 8, "pretrain")


def idle(name: str, kernels: int = 1) -> Snapshot:
    """A session that rests; with no kernel it is one whose kernel has gone."""
    facts = SessionFacts(name, "local, 8 ranks", 8, 8, states=("idle",) * 8, states_since=NOW - 240, lease=1800.0)
    if kernels:
        return snapshot(facts, None, NOW)
    run = begun(2)
    return taken(run, 2, "Modal 2×H100", 1, name, kernels=0, lease=1800.0, lease_left=1080.0)


def log(ranks: int = 4) -> dict[str, Any]:
    """The newest lines of a run."""
    text = "step {} loss 1.{} lr 2.91e-04 tok/s 118,{}"
    lines = [
        [number, 136 + number / 10, number % ranks, "stdout", text.format(860 + number, 800 + number, 300 + number)]
        for number in range(1, 25)
    ]
    lines[18] = [19, 137.9, 2, "stderr", "! UserWarning: The given NumPy array is not writable (data.py:88)"]
    return {"lines": lines, "total": 1248}


def stacks() -> dict[str, Any]:
    """Where the ranks of `stuck` are."""

    def stack(line: int, function: str, collective: str = "") -> dict[str, Any]:
        frames = [["cell", line, function], ["cell", 21, "<module>"]]
        told = [{"where": where, "line": number, "function": name} for where, number, name in frames]
        sequence = 77 if collective else 0
        return {
            "state": "running",
            "line": line,
            "collective": collective,
            "sequence": sequence,
            "seconds": 12.0,
            "silent": "",
            "frames": told,
        }

    waiting = {str(rank): stack(7, "train_step", "all_reduce") for rank in range(3)}
    return {**waiting, "3": stack(18, "load_batch")}


def given(shot: Snapshot) -> dict[str, Any]:
    """What a view of the gallery is made of."""
    told = msgspec.json.decode(msgspec.json.encode(shot))
    return {"shot": told, "log": log(len(shot.ranks)), "stacks": stacks()}


@contextmanager
def gallery(browser: Browser, folder: Path, dark: bool = False, width: int = 1200, **context: Any) -> Iterator[Page]:
    """An empty page with the views' code and style, and `place` for a view."""
    bundle = folder / "gallery.js"
    if not bundle.exists():
        source = ROOT / "labextension" / "tests" / "gallery.ts"
        command = [str(ROOT / "node_modules" / ".bin" / "esbuild"), str(source), "--bundle", f"--outfile={bundle}"]
        subprocess.run(command, check=True, capture_output=True)
    theme = "dark" if dark else "light"
    page = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()
    page.set_content(
        f"<html lang=en><head><title>gallery</title></head><body data-jp-theme-light={str(not dark).lower()} "
        "style='margin:0;padding:8px;background:var(--jp-layout-color0)'><main>"
        "<h1 style='position:absolute;clip-path:inset(50%)'>gallery</h1><div id=place></div></main></body></html>"
    )
    for sheet in (THEMES / f"theme-{theme}-extension" / "index.css", STYLE):
        page.add_style_tag(content=sheet.read_text())
    page.add_script_tag(path=bundle)
    yield page
    page.context.close()


def show(page: Page, shot: Snapshot) -> None:
    """Put a session into the page as a cell shows it."""
    clear(page)
    page.evaluate("given => { window.view = gallery.cell(document.getElementById('place'), given) }", given(shot))


def clear(page: Page) -> None:
    """Take away what was shown."""
    page.evaluate(
        "() => { window.view?.dispose(); const at = document.getElementById('place'); "
        "at.replaceWith(Object.assign(document.createElement('div'), { id: 'place' })); }"
    )


def show_panel(page: Page, *shots: Snapshot) -> None:
    """Put the panel into the page."""
    page.evaluate("all => { gallery.panel(document.getElementById('place'), all) }", [given(shot) for shot in shots])
    page.wait_for_timeout(700)


SHOTS = {"running": running, "stuck": stuck, "failed": failed, "many": many, "64": lambda: running(64)}


def main(folder: Path) -> None:
    """Write a picture of every view at every width, light and dark."""
    folder.mkdir(exist_ok=True)
    with chromium() as browser:
        for dark in (False, True):
            theme = "dark" if dark else "light"
            for width in (1200, 700, 400):
                for name, make in SHOTS.items():
                    with gallery(browser, folder, dark, width) as page:
                        show(page, make())
                        if name == "running":
                            page.locator(".row").nth(2).click()
                        if name == "stuck":
                            page.get_by_role("button", name="Stacks").click()
                        page.wait_for_timeout(700)
                        page.screenshot(path=folder / f"{name}-{width}-{theme}.png", full_page=True)
            for width in (336, 536):
                with gallery(browser, folder, dark, width) as page:
                    show_panel(page, running(), idle("sweep-a"), idle("old-kernel", 0))
                    page.screenshot(path=folder / f"panel-{width}-{theme}.png", full_page=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
