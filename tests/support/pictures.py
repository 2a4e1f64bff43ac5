"""The README's pictures: `python -m tests.support.pictures` makes them, with real ranks in a real JupyterLab.

Only the picture of very many ranks is drawn from a snapshot that is made up.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page

from modal_magic import registry
from modal_magic.sessions.session import Session
from tests.support import gallery as g
from tests.support.browser import ROOT, Lab, chromium, command, jupyter_lab, open_book, step_of

FOLDER = ROOT / "docs" / "pictures"
COLOURS = 256
TRAIN = """%%modal_distributed --replicas 4 --backend local --session train
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from tqdm import tqdm
import modal_magic

model = DDP(torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
teacher = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
torch.manual_seed(rank)
for step in tqdm(range(4000), desc="training"):
    x = torch.randn(32, 64)
    loss = torch.nn.functional.cross_entropy(model(x), (x @ teacher).argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    modal_magic.report(step=step, loss=loss.item())
    if step % 50 == 0:
        print(f"step {step} loss {loss.item():.3f}")"""


def save(data: bytes, name: str) -> None:
    """Keep a picture, in few colours."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / name
    Image.open(io.BytesIO(data)).convert("RGB").quantize(COLOURS).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB")


def until_step(page: Page, step: int) -> None:
    """Wait until rank 0 is there."""
    end = time.monotonic() + 120
    while step_of(page, 0) < step:
        assert time.monotonic() < end, "the ranks do not get on"
        time.sleep(0.1)


def in_lab(browser: Browser, lab: Lab, dark: bool) -> None:
    """A run that goes on, in the cell and in the panel."""
    page = browser.new_context(viewport={"width": 1480, "height": 860}).new_page()
    name = "dark" if dark else "light"
    book = lab.write(f"{name}.ipynb", "%load_ext modal_magic", TRAIN)
    open_book(page, lab, book)
    if dark:
        page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.add_style_tag(content=".Toastify { display: none }")  # Jupyter's news
    command(page, "modal-magic:open")
    command(page, "notebook:run-all-cells")
    page.wait_for_selector(".jp-OutputArea .row", timeout=90_000)
    splitter = page.locator("#jp-main-split-panel > .lm-SplitPanel-handle").first
    box = splitter.bounding_box()
    if box is not None:
        page.mouse.move(box["x"] + 1, 400)
        page.mouse.down()
        page.mouse.move(box["x"] + 160, 400)
        page.mouse.up()
    until_step(page, 600)
    page.locator(".jp-OutputArea .row[data-rank='2']").click()
    page.locator(".jp-OutputArea .hd").scroll_into_view_if_needed()
    page.mouse.move(700, 850)
    page.wait_for_timeout(1500)
    save(page.screenshot(), f"lab-{name}.png")
    command(page, "kernelmenu:interrupt")
    page.context.close()
    for session in registry.names():
        Session.attach(session).stop()


def main() -> None:
    """Make all of them."""
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        folder = Path(name)
        os.environ["MODAL_MAGIC_RUNTIME_DIR"] = str(folder / "runtime")
        with jupyter_lab(folder) as lab:
            for dark in (False, True):
                in_lab(browser, lab, dark)
        with g.gallery(browser, folder, width=1200) as page:
            g.show(page, g.many())
            save(page.locator(".mm").screenshot(), "many-light.png")


if __name__ == "__main__":
    main()
