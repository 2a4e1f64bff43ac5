"""`python -m tests.chaos SEED --count N`: so many faults, drawn at random, in one session; then what has leaked.

Then come the faults that no session survives, `--ends N` of them, each in a session of its own.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable

from tests.chaos.faults import ON_RANKS, Fault, draw
from tests.chaos.leaks import compare, measure
from tests.chaos.parts import ENDS, ON_NODES
from tests.chaos.session import Chaos, Wrong
from tests.support.notebook import notebook

WARM_UP = 20
"""After so many faults all that is made once has been made."""


def main() -> int:
    """Returns 1 when something was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--ends", type=int, default=20)
    parser.add_argument("--only", default="", help="only faults with this in their name")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as stacks:
        os.environ["MODAL_MAGIC_RUNTIME_DIR"] = folder
        with notebook() as book:
            book.run("%load_ext modal_magic")
            try:
                return suffer(Chaos(book, stacks), folder, chosen)
            finally:
                book.run("%modal_stop --all")


def suffer(chaos: Chaos, folder: str, chosen: argparse.Namespace) -> int:
    """Have the faults come, one after the other. A session that is broken is not used further."""
    chance = random.Random(chosen.seed)
    chaos.set_up()
    before = None
    try:
        for number in range(1, chosen.count + 1):
            one(chaos, number, drawn(chance, ON_RANKS | ON_NODES, chosen.only))
            if number == WARM_UP:
                before = measure(chaos, folder)
        after = measure(chaos, folder)
        for number in range(1, chosen.ends + 1):
            one(chaos, chosen.count + number, drawn(chance, ENDS, ""))
    except (Wrong, Exception) as error:
        print(f"WRONG: {type(error).__name__}: {error}", flush=True)
        return 1
    slow = sorted(chaos.seconds, reverse=True)
    print("slowest:", *(f"{seconds:.2f} s {name}" for seconds, name in slow[:5]), sep="\n  ")
    leaks = compare(before, after, chosen.count - WARM_UP) if before is not None else []
    print(*leaks, sep="\n")
    print(f"{len(chaos.seconds)} recoveries")
    return int(bool(leaks))


def drawn(chance: random.Random, kinds: dict[Callable[[random.Random], Fault], int], only: str) -> Fault:
    """The next fault with this in its name."""
    while only not in (fault := draw(chance, kinds)).name:
        pass
    return fault


def one(chaos: Chaos, number: int, fault: Fault) -> None:
    """Have one fault come."""
    print(f"{number}: {fault.name}", end="", flush=True)
    began = time.monotonic()
    chaos.suffer(fault)
    print(f": control after {chaos.seconds[-1][0]:.2f} s, in all {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
