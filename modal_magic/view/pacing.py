"""How much of a run's text goes out now, within what a Jupyter server lets through, and what of it never does."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Collection

from modal_magic import protocol as p
from modal_magic.lines import utf8_size
from modal_magic.view.text import Part

__all__ = ["PIECE", "REST_BYTES", "Allowance", "allowance_for", "fair_rest", "pieces", "size_of", "text_size"]

BURST_BYTES = 2_150_000
RATE_BYTES = 270_000
"""Jupyter servers drop output past 1 MB/s and 1000 messages/s, each averaged over 3 s (`iopub_data_rate_limit`,
`rate_limit_window` of jupyter_server): in any 3 s the burst and three times the rate must stay below 3 MB."""
MESSAGE_BYTES = 1000
"""A message counts as no less: 3000 of these are allowed in 3 s, and 3 MB."""
REST_BYTES = 100_000
"""So much of the burst is kept for the end of a run: then those that wrote little are shown, whoever flooded."""
PIECE = 200_000
"""Text goes out in pieces of about so many characters."""


class Allowance:
    """How much may be sent now (a token bucket). `clock` gives seconds."""

    def __init__(self, burst: int = BURST_BYTES, rate: int = RATE_BYTES, clock: Callable[[], float] = time.monotonic):
        self._burst, self._rate, self._clock = burst, rate, clock
        self._left, self._at = float(burst), clock()

    def take(self, size: int, keep: int = 0) -> bool:
        """Whether `size` bytes may go out now with `keep` left; if so, they are counted.

        More than the burst goes when that is full.
        """
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < min(size + keep, self._burst):
            return False
        self._left -= size
        return True


def allowance_for(paced: bool) -> Allowance:
    """What a Jupyter server lets through, or no bound."""
    return Allowance() if paced else Allowance(burst=1 << 60)


def fair_rest(waiting: Collection[Part]) -> tuple[deque[Part], int]:
    """What is still shown of the text that waits when a run is over, with all else, and the bytes of what is not.

    Those who have the least to say are shown, and of each all or nothing: what comes behind a gap would read as if
    there were none.
    """
    sizes: Counter[str] = Counter()
    for part in waiting:
        if not isinstance(part, p.Display) and _may_be_dropped(part):
            for line in _lines(part[1]):
                sizes[_label(line)] += utf8_size(line)
    chosen: set[str] = set()
    room = REST_BYTES
    for label, size in sorted(sizes.items(), key=lambda item: item[1]):
        room -= size
        if room >= 0:
            chosen.add(label)
    rest: deque[Part] = deque()
    for part in waiting:
        if isinstance(part, p.Display) or not _may_be_dropped(part):
            rest.append(part)
        elif kept := "".join(line for line in _lines(part[1]) if _label(line) in chosen):
            rest.append((part[0], kept))
    return rest, sum(size for label, size in sizes.items() if label not in chosen)


def _lines(text: str) -> list[str]:
    *lines, last = text.split("\n")
    return [*(f"{line}\n" for line in lines), *([last] if last else [])]


def _label(line: str) -> str:
    """Whose line it is: `[rank 2]`; empty for one of ours."""
    return line[: line.find("]") + 1] if line.startswith("[rank") else ""


def pieces(part: Part) -> list[Part]:
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


def text_size(part: Part) -> int:
    """The bytes of its text."""
    return utf8_size(part[1]) if not isinstance(part, p.Display) else 0


def size_of(part: Part) -> int:
    """What a part takes of the allowance: its bytes as the kernel sends them, which is in JSON."""
    texts = [part[1]] if not isinstance(part, p.Display) else [str(value) for value in part.data.values()]
    return max(MESSAGE_BYTES, sum(utf8_size(json.dumps(text, ensure_ascii=False)) for text in texts))
