"""Forty thousand lines from four ranks: none lost, none spliced, and how fast."""

from __future__ import annotations

import re

from tests.bench.figures import Bench, Row, median, seconds
from tests.bench.kernel import Kernel, Reply, start_kernel
from tests.bench.peers import PX, start_ipyparallel

__all__ = ["FLOOD"]

LINES = 10_000
RUNS = 3
LINE = 'f"step {i:05d} loss {1 / (i + 1):.6f} accuracy {i / 10_000:.4f}"'
SAY = f"for i in range({LINES}):\n    print({LINE})\n"
BARE = f"for r in range(4):\n    for i in range({LINES}):\n        print(f'[rank {{r}}] ' + {LINE})\n"
LABELLED = re.compile(r"\[rank (\d)\] (.*)")


def printed() -> list[str]:
    """What each rank prints."""
    return [f"step {i:05d} loss {1 / (i + 1):.6f} accuracy {i / 10_000:.4f}" for i in range(LINES)]


def whole_lines(reply: Reply) -> int:
    """How many lines came whole, with their rank before them, in the rank's order."""
    expected = printed()
    position = [0, 0, 0, 0]
    for line in reply.text.splitlines():
        found = LABELLED.fullmatch(line)
        if found and (rank := int(found[1])) < 4 and position[rank] < LINES and found[2] == expected[position[rank]]:
            position[rank] += 1
    return sum(position)


def flood(kernel: Kernel, cell: str) -> Reply:
    """One run; the kernel rests before it."""
    kernel.execute("import time; time.sleep(0.5)")
    return kernel.execute(cell)


def run() -> list[Row]:
    """Ours, ipyparallel's and a kernel's own, by turns."""
    ours, theirs, floor = [], [], []
    with start_kernel("%load_ext modal_magic") as kernel, start_ipyparallel(4) as other:
        kernel.execute("%%modal_distributed --replicas 4 --backend local\npass")
        kernel.execute("import time; time.sleep(3)")
        for turn in range(RUNS + 1):
            replies = (
                flood(kernel, f"%%modal_distributed --output-limit off\n{SAY}"),
                flood(other, f"{PX}\n{SAY}"),
                flood(kernel, BARE),
            )
            if turn:  # the first is not counted
                for kept, reply in zip((ours, theirs, floor), replies, strict=True):
                    kept.append(reply)
    text = 4 * sum(len(line) + 1 for line in printed())
    whole = min(whole_lines(reply) for reply in ours)
    share = max(reply.size for reply in ours) / text
    taken, other_taken = (median(reply.seconds for reply in replies) for replies in (ours, theirs))
    came = min(reply.text.count("accuracy") for reply in theirs)
    return [
        Row(
            "40,000 lines of 4 ranks, cell to idle",
            seconds(taken),
            f"ipyparallel {seconds(other_taken)}",
            "≤ ipyparallel",
            taken <= other_taken,
        ),
        Row(
            "the same, whole and labelled",
            f"{whole:,}",
            f"ipyparallel {came:,}",
            "40,000 of 40,000",
            whole == 4 * LINES,
        ),
        Row(
            "the same, bytes sent to the client",
            f"{share:.2f} of the text",
            f"ipyparallel {max(reply.size for reply in theirs) / text:.2f}",
            "≤ 1.50",
            share <= 1.5,
        ),
        Row("floor: a bare kernel prints the same lines", "", seconds(median(reply.seconds for reply in floor))),
    ]


FLOOD = Bench(
    name="flood",
    limit=120,
    how=(
        f"4 ranks print {LINES:,} lines of 40 characters each under `--output-limit off`; the client's clock runs to the "
        f"kernel's idle. Median of {RUNS} after one that is not counted, by turns with ipyparallel's `%%px` on 4 engines and "
        "with a bare kernel that prints the same 40,000 labelled lines. Every line is compared with what was printed; the "
        "worst run counts. Bytes are those of the text in iopub messages, labels included."
    ),
    run=run,
)
