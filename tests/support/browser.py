"""A real JupyterLab with this checkout's extension, and a browser that looks at it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
BUILT = ROOT / "modal_magic" / "labextension"
TOKEN = "browser"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@dataclass(slots=True)
class Lab:
    """A server that runs. `folder` has its notebooks."""

    url: str
    folder: Path
    process: subprocess.Popen[bytes]

    def write(self, name: str, *cells: str) -> str:
        """A notebook of these cells. Returns its name."""
        book = {
            "cells": [
                {
                    "cell_type": "code",
                    "execution_count": None,
                    "id": f"cell-{index}",
                    "metadata": {},
                    "outputs": [],
                    "source": source,
                }
                for index, source in enumerate(cells)
            ],
            "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (self.folder / name).write_text(json.dumps(book))
        return name

    def kill_kernel(self, name: str) -> None:
        """End the kernel of a notebook as a crash would; the server starts another."""
        (there,) = [one for one in self.ask("api/sessions") if one["path"] == name]
        (process,) = [
            process
            for process in psutil.Process(self.process.pid).children()
            if any(there["kernel"]["id"] in word for word in process.cmdline())
        ]
        process.kill()

    def ask(self, path: str) -> Any:
        """What a route of the server answers."""
        request = urllib.request.Request(f"{self.url}/{path}", headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def free_port() -> int:
    """A port that nobody has, and of those that Linux gives to nobody who asks for any: it takes 32768 and above."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as held:
            held.bind(("127.0.0.1", port))
            return port


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[Lab]:
    """A JupyterLab in a folder of its own, with settings of its own, and the extension that was built last."""
    assert BUILT.exists(), "build the extension first: pip install --editable . does it"
    extensions = folder / "extensions"
    extensions.mkdir()
    (extensions / "modal-magic").symlink_to(BUILT, target_is_directory=True)
    books = folder / "books"
    books.mkdir()
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    options = [
        "--no-browser",
        "--allow-root",
        f"--ServerApp.port={(port := free_port())}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}",
        f"--ServerApp.root_dir={books}",
        "--ServerApp.jpserver_extensions={'modal_magic.server': True, 'notebook': True}",
        f"--LabApp.extra_labextensions_path={extensions}",
        f"--JupyterNotebookApp.extra_labextensions_path={extensions}",
        "--JupyterNotebookApp.expose_app_in_browser=True",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=None",
    ]
    with (folder / "lab.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, cwd=books, stdout=log, stderr=log
        )
    lab = Lab(f"http://127.0.0.1:{port}", books, process)
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "lab.log").read_text()
            try:
                lab.ask("api/status")
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError((folder / "lab.log").read_text())
        yield lab
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            # It ended all that it has, but its own thread for files (AnyIO's) may outlive the loop that would end it.
            process.kill()
            process.wait(10)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert path, "Chromium is missing: make tools installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def open_book(page: Page, lab: Lab, name: str) -> None:
    """Open a notebook in a workspace of its own, and wait until its kernel is there."""
    page.goto(f"{lab.url}/lab/workspaces/{Path(name).stem}/tree/{name}?token={TOKEN}")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    current = "window.jupyterapp?.shell.currentWidget"
    page.wait_for_function(
        f"name => {current}?.context?.path === name && {current}.sessionContext?.session?.kernel",
        arg=name,
        timeout=60_000,
    )


def command(page: Page, name: str) -> None:
    """Have JupyterLab carry out one of its commands, without waiting for its end."""
    page.evaluate("name => { void window.jupyterapp.commands.execute(name); }", name)


def step_of(page: Page, rank: int) -> int:
    """How far the row of a rank says that it is, 0 where it says nothing."""
    cells = page.locator(f".jp-OutputArea .row[data-rank='{rank}'] .g-step")
    found = re.match(r"[\d,]+", cells.first.inner_text() if cells.count() else "")
    return int(found[0].replace(",", "")) if found else 0
