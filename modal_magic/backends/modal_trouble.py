"""What Modal refused, in words for the person who is stuck."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

import modal.exception as trouble
from grpclib.exceptions import StreamTerminatedError
from modal.config import config

__all__ = ["TROUBLE", "explain", "reach"]

TROUBLE = (trouble.Error, StreamTerminatedError)
"""What a call of Modal's client fails with. The second it lets through where its connection breaks."""

PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
REACH_SECONDS = 10.0
"""How long Modal has to take a connection. Its client would try for two minutes."""

AWAY = "Modal cannot be reached: see https://status.modal.com, and this machine's network"
ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (
        trouble.AuthError,
        "Modal wants a token that it knows: `modal token new` makes one, and --backend local runs the cell on this "
        "machine",
    ),
    (trouble.PermissionDeniedError, "this Modal token may not do that"),
    (trouble.ImageBuildError, "the image of the containers could not be built, as its log above tells"),
    (trouble.NotFoundError, "Modal does not have what the options name"),
    (trouble.InvalidError, "Modal refuses such containers"),
    (
        trouble.ResourceExhaustedError,
        "a limit of this Modal workspace is reached: %modal_stop --all ends what runs, and fewer replicas need less",
    ),
    (trouble.ConnectionError, AWAY),
    (StreamTerminatedError, AWAY),
)
"""What each kind of trouble means; the first that fits is told."""


def explain(error: Exception) -> str:
    """The sentence for an error of Modal's client, with the client's own words at its end."""
    for kind, words in ADVICE:
        if isinstance(error, kind):
            return f"{words} ({str(error).rstrip('.')})"
    return f"Modal: {type(error).__name__}: {error}"


def reach() -> None:
    """Raise ConnectionError at once where Modal's service takes no connection from here."""
    url = urlsplit(str(config["server_url"]))
    # A container reaches it through a socket of its own; a proxy has its own ways, and Modal's client follows them.
    if url.scheme not in ("http", "https") or any(name.upper() in PROXIES for name in os.environ):
        return
    place = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection(place, REACH_SECONDS).close()
    except OSError as error:
        raise trouble.ConnectionError(f"{place[0]}:{place[1]}: {error.strerror or error}") from None
