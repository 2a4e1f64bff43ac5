"""What is deployed on Modal and what runs there, by Modal's own lists."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time

import modal
import modal.experimental

from modal_magic.backends.base import Deployed
from modal_magic.backends.modal_meeting import Meeting

__all__ = ["APP_PREFIX", "apps", "containers_of_app", "left_running", "remove_idle"]

APP_PREFIX = "modal-magic-"
"""How the names of our apps begin; the rest is a hash of what they are made of."""
COLOURS = ("FORCE_COLOR", "CLICOLOR_FORCE")
LOOK_SECONDS = 0.3
SOON_SECONDS = 1.0
STOP_SECONDS = 8.0
"""A container that is stopped is listed for some seconds more."""
ASK_SECONDS = 30.0
"""How long Modal's command line has for an answer."""


def apps() -> list[Deployed]:
    """Our deployed apps, and how many containers each has. Raises modal.exception.Error."""
    found = modal.experimental.list_deployed_apps()
    return [Deployed(one.name, one.containers) for one in found if one.name.startswith(APP_PREFIX)]


def remove_idle() -> list[Deployed]:
    """Remove our apps that have no container, and return them. Raises modal.exception.Error."""
    idle = [one for one in apps() if not one.containers]
    for one in idle:
        with contextlib.suppress(modal.exception.NotFoundError):  # somebody else has removed it
            modal.App.lookup(one.name).stop()
    return idle


def left_running(key: str, seconds: float) -> list[str]:
    """The containers of a session that has ended that Modal still lists after so many seconds; these are then stopped.

    What other sessions have there is not waited for. Raises modal.exception.Error where Modal cannot be asked.
    """
    began, mine = time.monotonic(), Meeting(key).containers()
    while any(one.containers for one in apps()):
        waited = time.monotonic() - began
        # Which they are is asked once they have had a moment to end: the answer takes the command line a second.
        left = sorted(mine & _running()) if waited > min(seconds, SOON_SECONDS) else None
        if left == []:
            return []
        if left and waited > seconds:
            for container in left:
                _command("stop", "--yes", container)
            return _left_after_stop(mine)
        time.sleep(LOOK_SECONDS)
    return []


def _left_after_stop(mine: set[str]) -> list[str]:
    """Those of these containers that have not ended some seconds after they were told to."""
    until = time.monotonic() + STOP_SECONDS
    while (left := sorted(mine & _running())) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
    return left


def containers_of_app(name: str) -> set[str]:
    """The ids of the containers of an app, those too that are only starting. Raises modal.exception.Error."""
    return {str(row["container_id"]) for row in _listed() if row["app_name"] == name}


def _running() -> set[str]:
    """The ids of all containers of this environment."""
    return {str(row["container_id"]) for row in _listed()}


def _listed() -> list[dict[str, object]]:
    """Modal's own list of containers. Its client has no other way to it than its command line."""
    found: list[dict[str, object]] = json.loads(_command("list", "--json") or "[]")
    return found


def _command(*words: str) -> str:
    """What `modal container …` prints."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "modal", "container", *words],
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
            check=False,
            # A kernel asks for colours (FORCE_COLOR), which are no JSON.
            env={name: value for name, value in os.environ.items() if name not in COLOURS} | {"NO_COLOR": "1"},
        )
    except subprocess.TimeoutExpired:
        raise modal.exception.ConnectionError(f"`modal container {words[0]}` took {ASK_SECONDS:g} s") from None
    if done.returncode:
        raise modal.exception.ConnectionError(f"`modal container {words[0]}`: {done.stderr.strip()[-200:]}")
    return done.stdout
