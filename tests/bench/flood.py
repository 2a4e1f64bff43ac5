"""Forty thousand lines from four ranks: none lost, none spliced, and how fast."""

from __future__ import annotations

import re

from tests.bench.figures import Bench, Row, at_most, median, seconds
from tests.bench.kernel import Kernel, Reply, start_kernel, wait_until_warm
from tests.bench.peers import PX, start_ipyparallel

__all__ = ["FLOOD"]

LINES = 10_000
RUNS = 5
LINE = 'f"step {i:05d} loss {1 / (i + 1):.6f} accuracy {i / 10_000:.4f}"'
SAY = f"for i in range({LINES}):\n    print({LINE})\n"
BARE = f"for r in range(4):\n    for i in range({LINES}):\n        print(f'[rank {{r}}] ' + {LINE})\n"
LABELLED = re.compile(r"\[rank ([0-3])\] (.*)")
PRINTED = tuple(f"step {i:05d} loss {1 / (i + 1):.6f} accuracy {i / 10_000:.4f}" for i in range(LINES))
"""What each rank prints."""


def whole_lines(reply: Reply) -> int:
    """How many lines came whole, with their rank before them, in the rank's order."""
    position = [0, 0, 0, 0]
    for line in reply.text.splitlines():
        found = LABELLED.fullmatch(line)
        if found is not None:
            rank = int(found[1])
            position[rank] += position[rank] < LINES and found[2] == PRINTED[position[rank]]
    return sum(position)


def displayed_lines(reply: Reply) -> int:
    """How many lines came whole where each engine has a display of its own, with a label before the first."""
    texts: dict[str, str] = {}
    for chunk in reply.chunks:
        texts[chunk.origin] = texts.get(chunk.origin, "") + chunk.text
    lines = [re.sub(r"^\[stdout:\d\] ", "", line) for text in texts.values() for line in text.splitlines()]
    known = set(PRINTED)
    return sum(line in known for line in lines)


def measure() -> tuple[list[Reply], list[Reply], list[Reply]]:
    """Ours, ipyparallel's and a bare kernel's, by turns; the first turn is not counted."""
    kept: tuple[list[Reply], list[Reply], list[Reply]] = ([], [], [])
    with start_kernel("%load_ext modal_magic") as kernel, start_ipyparallel(4) as other:
        kernel.execute("%%modal_distributed --replicas 4 --backend local\npass")
        wait_until_warm(kernel)
        cells: tuple[tuple[Kernel, str], ...] = (
            (kernel, f"%%modal_distributed --output-limit off\n{SAY}"),
            (other, f"{PX}\n{SAY}"),
            (kernel, BARE),
        )
        for turn in range(RUNS + 1):
            for replies, (where, cell) in zip(kept, cells, strict=True):
                where.execute("import time; time.sleep(0.5)")
                reply = where.execute(cell)
                if turn:
                    replies.append(reply)
    return kept


def run() -> list[Row]:
    """Time, completeness and bytes."""
    ours, theirs, floor = measure()
    text = 4 * sum(len(line) + 1 for line in PRINTED)
    whole = min(whole_lines(reply) for reply in ours)
    share = max(reply.size for reply in ours) / text
    their_share = max(reply.size for reply in theirs) / text
    taken, their_time, bare = (median(reply.seconds for reply in replies) for replies in (ours, theirs, floor))
    beside = f"ipyparallel {seconds(their_time)}; bare kernel, the same lines {seconds(bare)}"
    came = f"ipyparallel {min(displayed_lines(reply) for reply in theirs):,}"
    return [
        Row("40,000 lines of 4 ranks, cell to idle", seconds(taken), beside, "≤ ipyparallel", taken <= their_time),
        Row("40,000 lines of 4 ranks, whole and labelled", f"{whole:,}", came, "40,000", whole == 4 * LINES),
        at_most(
            "40,000 lines of 4 ranks, bytes to the client per byte printed",
            share,
            1.5,
            "{:.2f}".format,
            f"ipyparallel {their_share:.2f}",
        ),
    ]


FLOOD = Bench(
    name="flood",
    limit=120,
    how=(
        f"4 ranks print {LINES:,} lines of 40 characters each under `--output-limit off`; the client's clock runs to "
        f"the kernel's idle. Median of {RUNS} after one that is not counted, by turns with ipyparallel's `%%px` on "
        "4 engines and with a bare kernel that prints the same 40,000 labelled lines. Every line is compared with what "
        "was printed; the worst run counts. Bytes are those of the text in iopub messages, labels included "
        "(ipyparallel labels an engine's first line only)."
    ),
    run=run,
)
