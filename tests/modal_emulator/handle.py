"""An emulator in a process of its own, as tests hold it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Handle", "emulator"]


class Handle:
    """Where an emulator is reached, and what can be asked of it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.pid = process.pid
        self.environment = {
            "MODAL_SERVER_URL": url,
            "MODAL_TOKEN_ID": "ak-emulator",
            "MODAL_TOKEN_SECRET": "as-emulator",
            "MODAL_CONFIG_PATH": os.devnull,
        }

    @contextmanager
    def reached(self) -> Iterator[None]:
        """For the time of this context Modal's client, here and in processes that are started, finds the emulator."""
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})

    def ask(self, do: str, **rest: object) -> Any:
        """Have something done, or learn something; see `Emulator.wish`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **rest}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert not (isinstance(answer, dict) and "error" in answer), f"{do}: {answer['error']}"
        return answer

    def containers(self, kind: str = "") -> list[dict[str, Any]]:
        """The containers that are there now, or those of one class."""
        return [one for one in self.ask("containers") if kind in ("", one["class"])]

    def logs(self) -> str:
        """What the containers that are there have written, for a test that failed."""
        return "\n".join(f"--- {one['class']} {one['id']}\n{Path(one['log']).read_text()}" for one in self.containers())


@contextmanager
def emulator(namespaces: bool = True) -> Iterator[Handle]:
    """Start an emulator; end it with all its containers."""
    command = [sys.executable, "-m", "tests.modal_emulator", *([] if namespaces else ["--no-namespaces"])]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Handle(process, process.stdout.readline().strip())
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
