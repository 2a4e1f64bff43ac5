"""Whether a run that has failed is tried again, after what delay, and how that is told."""

from __future__ import annotations

from msgspec.structs import replace

from modal_magic import protocol as p
from modal_magic.state.active_run import LOST, ActiveRun

__all__ = ["delay_before", "next_attempt"]


def delay_before(attempt: int, retries: p.Retries) -> float:
    """How many seconds the second, third … attempt is put off, as `modal.Retries` has it."""
    delay = retries.initial_delay
    for _ in range(attempt - 2):
        delay *= retries.backoff_coefficient
        if delay >= retries.max_delay:
            break
    return max(0.0, min(delay, retries.max_delay))


def next_attempt(active: ActiveRun) -> tuple[p.Run, p.RunRetried] | None:
    """A run's next attempt and the event that tells of it, once all ranks have ended; None where this was the last.

    A run is tried again when a rank was lost, unless somebody wanted the run or the rank to end. One whose cell raised
    is tried again only by `Retries.on_error`: the same code would raise again.
    """
    request = active.request
    if request is None or request.retries is None or active.interrupted or active.final or not active.failures:
        return None
    retries, attempt = request.retries, request.task.attempt + 1
    kind, culprit = min(active.failures, key=lambda failure: failure[0])
    if attempt > retries.max_retries + 1 or not (kind == LOST or retries.on_error):
        return None
    delay = delay_before(attempt, retries)
    told = p.RunRetried(active.run, active.causes[culprit], attempt, retries.max_retries + 1, delay)
    return replace(request, task=replace(request.task, attempt=attempt)), told
