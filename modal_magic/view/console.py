"""A run in the output of a cell: pages of text as they come, within what a Jupyter server lets through."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from modal_magic import protocol as p
from modal_magic.signals import set_handler
from modal_magic.view.cell_output import show
from modal_magic.view.failure import headline
from modal_magic.view.pacing import REST_BYTES, allowance_for, fair_rest, pieces, size_of, text_size
from modal_magic.view.picture import Picture
from modal_magic.view.stack import stall_sentence
from modal_magic.view.text import Part, TextView, bytes_in_words

if TYPE_CHECKING:
    from modal_magic.sessions.run import Run

__all__ = ["TURN_SECONDS", "follow"]

IDLE_SECONDS = 1.0
"""How long a turn waits for something to show; any event ends the wait."""
HOLD_SECONDS = 0.03
"""So long an interrupt is held in a Jupyter kernel: a server that restarts or shuts down a kernel interrupts it first,
and the request for that follows within milliseconds. Then the run goes on without this kernel."""
HEADLINE_SECONDS = 0.2
"""A failure is told so long after it was heard of, if the other ranks have not left the run by then."""
TURN_SECONDS = 0.02
"""After one page the next gathers so long; the first goes out at once."""
MERGE_TURN_SECONDS = 0.1
"""The same where equal lines are merged: the slower ranks need time to say them."""


def follow(
    run: Run,
    view: TextView,
    picture: Picture,
    paced: bool,
    limited: bool,
    put: Callable[[Part], None] = show,
    way_out: str = "an interrupt",
) -> None:
    """Show a run until it is over, and pass the kernel's interrupt on to its ranks. `put` is what shows a part,
    `way_out` what takes the run out of the queue while it waits.

    `paced` keeps within what a Jupyter server lets through. With `limited`, text that is still held back when the run
    is over is dropped for one line that says how much there is in the log, so that the prompt comes back at once;
    values and rich output are shown, and all of those who wrote little. An interrupt of a run that is over drops these
    too.
    """
    allowance = allowance_for(paced)
    waiting: deque[Part] = deque()
    turn_seconds = MERGE_TURN_SECONDS if view.merging else TURN_SECONDS
    last_turn, failed_at, told, over, thinned, missing = 0.0, 0.0, False, False, False, 0

    def tell(part: Part) -> None:
        picture.hide()
        put(part)

    with _interrupts_for(run) as (enough, asked):
        while not over or (waiting and not enough):
            if not over:
                pause = last_turn + turn_seconds - time.monotonic()
                if pause > 0:
                    run.settled(pause)
            over = run.done
            held = bool(waiting) or view.holding or (run.view.failing and not told)
            drawn_in = picture.turn(over=False)
            patience = IDLE_SECONDS if drawn_in is None else min(IDLE_SECONDS, drawn_in)
            if asked and not over:
                if (left := asked[0] + (HOLD_SECONDS if paced else 0.0) - time.monotonic()) > 0:
                    patience = min(patience, left)
                else:
                    asked.clear()
                    run.interrupt()
            events = run.events(0.0 if over else min(turn_seconds, patience) if held else patience)
            if run.done and not over:  # as with most cells: then this is the last turn, with all that has come
                events, over = [*events, *run.events(0.0)], True
            last_turn = time.monotonic() if events else 0.0
            for event in events:
                if isinstance(event, p.RunQueued) and event.position:
                    before = f"{event.position} run{'s' * (event.position != 1)}"
                    tell(("stderr", f"waiting for {before} of this session; {way_out} takes this cell out again\n"))
                elif isinstance(event, p.Notice):
                    tell(("stderr", f"{event.text}\n"))
                elif isinstance(event, p.Stalled):
                    tell(("stderr", f"{stall_sentence(event)}\n"))
            for part in view.turn(events, last=over).parts:
                waiting.extend(pieces(part))
            while waiting and not enough:
                if allowance.take(size_of(waiting[0]), REST_BYTES if limited and not thinned else 0):
                    tell(waiting.popleft())
                elif over and limited and not thinned:
                    thinned = True
                    waiting, missing = fair_rest(waiting)
                else:
                    break
            if not run.view.failing:
                failed_at, told = 0.0, False  # it is tried again
            elif not failed_at:
                failed_at = time.monotonic()
            if failed_at and not told and not over and time.monotonic() - failed_at > HEADLINE_SECONDS:
                told = True
                with run.still() as still:
                    sentence = headline(still)
                tell(("stderr", f"{sentence}\n"))
            if not waiting and not view.holding:
                run.shown(view.unfinished)
            if waiting and not over:
                run.settled(TURN_SECONDS)
            elif waiting and not enough:
                time.sleep(TURN_SECONDS)
        picture.turn(over=True)
    missing += sum(text_size(part) for part in waiting)
    if size := run.view.withheld + missing:
        put(("stdout", f"… {bytes_in_words(size)} more: %modal_logs --session {run.session.name}\n"))


@contextlib.contextmanager
def _interrupts_for(run: Run) -> Iterator[tuple[list[float], list[float]]]:
    """Gather the kernel's interrupts, as often as they come, without cutting short what is being shown.

    Gives the moments (monotonic seconds) of those that came when the run was over, and of those that it is to hear of.
    """
    late: list[float] = []
    asked: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        yield late, asked
        return

    def hear(number: int, frame: object) -> None:
        (late if run.done else asked).append(time.monotonic())
        run.wake()

    before = set_handler(signal.SIGINT, hear)
    try:
        yield late, asked
    finally:
        try:
            if asked and not run.done:
                run.interrupt()
        finally:
            set_handler(signal.SIGINT, before)
