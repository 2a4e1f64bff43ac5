"""`python -m tests.chaos SEED --count N`: so many faults, drawn at random, in one session; then what has leaked."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time

from tests.chaos.faults import draw
from tests.chaos.leaks import compare, measure
from tests.chaos.session import Chaos, Wrong
from tests.support.notebook import notebook

WARM_UP = 20
"""After so many faults all that is made once has been made."""


def main() -> int:
    """Returns 1 when something was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--only", default="", help="only faults with this in their name")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MODAL_MAGIC_RUNTIME_DIR"] = folder
        with notebook() as book:
            book.run("%load_ext modal_magic")
            try:
                return suffer(Chaos(book), folder, chosen)
            finally:
                book.run("%modal_stop --all")


def suffer(chaos: Chaos, folder: str, chosen: argparse.Namespace) -> int:
    """Have the faults come, one after the other. A session that is broken is not used further."""
    chance = random.Random(chosen.seed)
    chaos.set_up()
    before = None
    number = 0
    while number < chosen.count:
        fault = draw(chance)
        if chosen.only not in fault.name:
            continue
        number += 1
        began = time.monotonic()
        try:
            chaos.suffer(fault)
        except (Wrong, Exception) as error:
            print(f"{number}: {fault.name}\nWRONG: {type(error).__name__}: {error}", flush=True)
            return 1
        control, whole = chaos.seconds[-1][0], time.monotonic() - began
        print(f"{number}: {fault.name}: control after {control:.2f} s, in all {whole:.1f} s", flush=True)
        if number == WARM_UP:
            before = measure(chaos.book, folder)
    slow = sorted(chaos.seconds, reverse=True)
    print("slowest:", *(f"{seconds:.2f} s {name}" for seconds, name in slow[:5]), sep="\n  ")
    if before is None:
        return 0
    leaks = compare(before, measure(chaos.book, folder), chosen.count - WARM_UP)
    print(*leaks, sep="\n")
    return int(bool(leaks))


if __name__ == "__main__":
    sys.exit(main())
