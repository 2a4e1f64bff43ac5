"""A run in the output of a cell: pages of text as they come, within what a Jupyter server lets through."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from modal_magic import protocol as p
from modal_magic.lines import utf8_size
from modal_magic.view.failure import headline
from modal_magic.view.picture import Picture
from modal_magic.view.stack import stall_sentence
from modal_magic.view.text import Part, TextView, bytes_in_words

if TYPE_CHECKING:
    from modal_magic.run import Run

__all__ = ["PIECE", "TURN_SECONDS", "Allowance", "allowance_for", "follow", "show", "size_of"]

BURST_BYTES = 2_150_000
RATE_BYTES = 270_000
"""Jupyter servers drop output past 1 MB/s and 1000 messages/s, each averaged over 3 s (`iopub_data_rate_limit`,
`rate_limit_window` of jupyter_server): in any 3 s the burst and three times the rate must stay below 3 MB."""
MESSAGE_BYTES = 1000
"""A message counts as no less: 3000 of these are allowed in 3 s, and 3 MB."""
IDLE_SECONDS = 1.0
"""How long a turn waits for something to show; any event ends the wait."""
HEADLINE_SECONDS = 0.2
"""A failure is told so long after it was heard of, if the other ranks have not left the run by then."""
PIECE = 200_000
"""Text goes out in pieces of about so many characters."""
TURN_SECONDS = 0.02
"""After one page the next gathers so long; the first goes out at once."""
MERGE_TURN_SECONDS = 0.1
"""The same where equal lines are merged: the slower ranks need time to say them."""


class Allowance:
    """How much may be sent now (a token bucket). `clock` gives seconds."""

    def __init__(self, burst: int = BURST_BYTES, rate: int = RATE_BYTES, clock: Callable[[], float] = time.monotonic):
        self._burst, self._rate, self._clock = burst, rate, clock
        self._left, self._at = float(burst), clock()

    def take(self, size: int) -> bool:
        """Whether `size` bytes may go out now; if so, they are counted. More than the burst goes when that is full."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < min(size, self._burst):
            return False
        self._left -= size
        return True


def allowance_for(paced: bool) -> Allowance:
    """What a Jupyter server lets through, or no bound."""
    return Allowance() if paced else Allowance(burst=1 << 60)


def show(part: Part) -> None:
    """Put text or a rich output into the cell's output."""
    if not isinstance(part, p.Display):
        target = sys.stderr if part[0] == "stderr" else sys.stdout
        target.write(part[1])
        target.flush()
        return
    if part.kind == "clear":
        return  # one rank must not clear what the others have shown
    from IPython.display import publish_display_data

    transient = {"display_id": f"rank-{part.rank}-{part.display_id}"} if part.display_id else None
    publish_display_data(part.data, part.metadata, transient=transient, update=part.kind == "update")


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
    values and rich output are shown. An interrupt of a run that is over drops these too.
    """
    allowance = allowance_for(paced)
    waiting: deque[Part] = deque()
    turn_seconds = MERGE_TURN_SECONDS if view.merging else TURN_SECONDS
    last_turn, failed_at, told, over, missing = 0.0, 0.0, False, False, 0
    with _interrupts_for(run) as enough:
        while not over or (waiting and not enough):
            if not over:
                run.settled(max(0.0, last_turn + turn_seconds - time.monotonic()))
            over = run.done
            held = bool(waiting) or view.holding or (run.view.failing and not told)
            drawn_in = picture.turn(over=False)
            patience = IDLE_SECONDS if drawn_in is None else min(IDLE_SECONDS, drawn_in)
            events = run.events(0.0 if over else turn_seconds if held else patience)
            last_turn = time.monotonic() if events else 0.0
            if any(isinstance(event, p.RunQueued | p.Notice) for event in events):
                picture.hide()
            for event in events:
                if isinstance(event, p.RunQueued) and event.position:
                    before = f"{event.position} run{'s' * (event.position != 1)}"
                    put(("stderr", f"waiting for {before} of this session; {way_out} takes this cell out again\n"))
                elif isinstance(event, p.Notice):
                    put(("stderr", f"{event.text}\n"))
                elif isinstance(event, p.Stalled):
                    put(("stderr", f"{stall_sentence(event)}\n"))
            for part in view.turn(events, last=over).parts:
                waiting.extend(_pieces(part))
            while waiting and not enough:
                if missing and _may_be_dropped(waiting[0]):  # what comes behind a gap would read as if there were none
                    missing += _text_size(waiting.popleft())
                elif allowance.take(size_of(waiting[0])):
                    picture.hide()
                    put(waiting.popleft())
                elif over and limited and _may_be_dropped(waiting[0]):
                    missing += _text_size(waiting.popleft())
                else:
                    break
            if not run.view.failing:
                failed_at, told = 0.0, False  # it is tried again
            elif not failed_at:
                failed_at = time.monotonic()
            if failed_at and not told and not over and time.monotonic() - failed_at > HEADLINE_SECONDS:
                told = True
                picture.hide()
                with run.still() as still:
                    sentence = headline(still)
                put(("stderr", f"{sentence}\n"))
            if not waiting and not view.holding:
                run.shown(view.unfinished)
            if waiting and not over:
                run.settled(TURN_SECONDS)
            elif waiting and not enough:
                time.sleep(TURN_SECONDS)
        picture.turn(over=True)
    missing += sum(_text_size(part) for part in waiting)
    if size := run.view.withheld + missing:
        put(("stdout", f"… {bytes_in_words(size)} more: %modal_logs --session {run.session.name}\n"))


@contextlib.contextmanager
def _interrupts_for(run: Run) -> Iterator[list[int]]:
    """Have the kernel's interrupt go to the run, as often as it comes, without cutting short what is being shown.

    Interrupts that come when the run is over are gathered in the list.
    """
    late: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield late
        return
    before = signal.signal(signal.SIGINT, lambda number, _: late.append(number) if run.done else run.interrupt())
    try:
        yield late
    finally:
        signal.signal(signal.SIGINT, before)


def _pieces(part: Part) -> list[Part]:
    """Text in pieces that end where lines end, so that no line is cut where the rest is dropped."""
    if isinstance(part, p.Display) or part[0] == "value" or len(part[1]) <= PIECE:
        return [part]
    stream, text = part
    pieces: list[Part] = []
    start = 0
    while start < len(text):
        end = text.find("\n", start + PIECE) + 1 or len(text)
        pieces.append((stream, text[start:end]))
        start = end
    return pieces


def _may_be_dropped(part: Part) -> bool:
    return not isinstance(part, p.Display) and part[0] != "value"


def _text_size(part: Part) -> int:
    return utf8_size(part[1]) if not isinstance(part, p.Display) else 0


def size_of(part: Part) -> int:
    """What a part takes of the allowance: its bytes as the kernel sends them, which is in JSON."""
    texts = [part[1]] if not isinstance(part, p.Display) else [str(value) for value in part.data.values()]
    return max(MESSAGE_BYTES, sum(utf8_size(json.dumps(text, ensure_ascii=False)) for text in texts))
