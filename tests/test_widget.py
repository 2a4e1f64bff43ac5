"""What is pressed in the widget of VS Code and Colab is heard by the kernel while the cell of the run goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modal_magic.view.widget import VIEW
from tests.support.notebook import Notebook, notebook

pytestmark = [pytest.mark.patient, pytest.mark.timeout(240)]

LINE = "%%modal_distributed --replicas 2 --backend local --framework none --session pressed"


@pytest.fixture(scope="module")
def book() -> Iterator[Notebook]:
    with notebook() as opened:
        opened.run("%load_ext modal_magic\n__vsc_ipynb_file__ = 'train.ipynb'")
        yield opened
        opened.run("%modal_stop pressed")


class Page:
    """The page of a notebook, as far as its widget goes."""

    def __init__(self, book: Notebook, sent: str) -> None:
        self.book, self.sent = book, sent
        shown = self.until(lambda message: VIEW in message["content"].get("data", {}))
        self.comm = shown["content"]["data"][VIEW]["model_id"]
        self._number = 0

    def until(self, wanted: Any) -> dict[str, Any]:
        """The first message of the kernel that is `wanted`; the cell must not be over before that."""
        while True:
            message: dict[str, Any] = self.book.client.get_iopub_msg(timeout=60)
            if wanted(message):
                return message
            ours = message["parent_header"].get("msg_id") == self.sent
            assert not (ours and message["content"].get("execution_state") == "idle"), "the cell is over"

    def ask(self, what: str, **rest: object) -> dict[str, Any]:
        """Ask as the widget does, and wait for the answer."""
        self._number += 1
        content = {"number": self._number, "what": what, **rest}
        data = {"method": "custom", "content": content}
        client = self.book.client
        client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": self.comm, "data": data}))

        def answers(message: dict[str, Any]) -> bool:
            told = message["content"].get("data", {})
            return message["msg_type"] == "comm_msg" and told.get("content", {}).get("number") == self._number

        answer: dict[str, Any] = self.until(answers)["content"]["data"]["content"]
        return answer


def test_buttons_and_logs_work_while_the_cell_runs_and_later_cells_keep_their_order(book: Notebook) -> None:
    sent = book.send(f"{LINE}\nimport time\nprint('hello from', rank)\nprint('on')\ntime.sleep(1000)")
    page = Page(book, sent)
    later = [book.send(f"print({number})") for number in (1, 2)]
    while (log := page.ask("log", rank=1)["value"])["total"] < 2:
        pass  # the rank may have begun late
    while {stack["line"] for stack in page.ask("stacks")["value"].values()} != {5}:
        pass
    assert [line[2:] for line in log["lines"]] == [[1, "stdout", "hello from 1"], [1, "stdout", "on"]]
    assert page.ask("log", rank=1, after=log["lines"][-1][0])["value"]["lines"] == []
    pressed = time.monotonic()
    assert page.ask("interrupt")["value"] == {}
    shown = book.collect(sent, pressed)
    assert shown.error_name == "RunInterrupted"
    assert time.monotonic() - pressed < 50
    # What was waiting behind a cell that failed is not run, by the notebook's own rule, and is answered in its order.
    for each in later:
        assert book.reply(each)["status"] == "aborted"
    assert book.run("print('goes on')").stdout == "goes on\n"


def test_cells_that_wait_behind_one_whose_widget_was_asked_run_in_their_order(book: Notebook, tmp_path: Path) -> None:
    began, go = time.monotonic(), tmp_path / "go"
    sent = book.send(f"{LINE}\nimport os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)")
    page = Page(book, sent)
    later = [book.send(f"print({number})") for number in (1, 2, 3)]
    assert page.ask("log")["value"]["lines"] == []
    go.touch()
    shown = book.collect(sent, began)
    assert shown.error == ""
    assert [book.collect(each, began).stdout for each in later] == ["1\n", "2\n", "3\n"]


def test_stop_ends_the_session_and_gives_the_notebook_back(book: Notebook) -> None:
    began = time.monotonic()
    sent = book.send(f"{LINE}\nimport time\ntime.sleep(60)")
    assert Page(book, sent).ask("stop")["value"] == {}
    shown = book.collect(sent, began)
    assert shown.error_name == "SessionClosed"
    assert "it was stopped from the view of a cell" in shown.error
