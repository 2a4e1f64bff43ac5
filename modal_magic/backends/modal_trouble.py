"""What Modal refused, in words for the person who is stuck."""

from __future__ import annotations

import modal.exception as trouble

__all__ = ["explain"]

ADVICE: tuple[tuple[type[trouble.Error], str], ...] = (
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
    (trouble.ConnectionError, "Modal cannot be reached: see https://status.modal.com, and this machine's network"),
)
"""What each kind of trouble means; the first that fits is told."""


def explain(error: trouble.Error) -> str:
    """The sentence for an error of Modal's client, with the client's own words at its end."""
    for kind, words in ADVICE:
        if isinstance(error, kind):
            return f"{words} ({str(error).rstrip('.')})"
    return f"Modal: {type(error).__name__}: {error}"
