"""`python -m tests.bench [name …]`: run benchmarks, print a table, and write docs/benchmarks.md when all have run."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback

from modal_magic.node import orphans
from tests.bench.faults import FAULTS
from tests.bench.figures import Bench, Row
from tests.bench.flood import FLOOD
from tests.bench.latency import LATENCY
from tests.bench.loading import LOADING
from tests.bench.memory import MEMORY
from tests.bench.modal import MODAL
from tests.bench.passes import PASSES
from tests.bench.report import Result, document, machine, terminal
from tests.bench.scale import SCALE
from tests.bench.stacks import STACKS
from tests.bench.starts import STARTS
from tests.bench.surroundings import ROOT, alone, clear_up, time_limit
from tests.bench.training import TRAINING
from tests.bench.views import VIEWS

BENCHES = (STARTS, LOADING, PASSES, LATENCY, FLOOD, MEMORY, TRAINING, STACKS, FAULTS, VIEWS, SCALE, MODAL)


def measure(bench: Bench) -> list[Row]:
    """Run one benchmark in a folder of its own. One that fails or leaves a process behind has missed its bar."""
    with alone():
        try:
            with time_limit(bench.limit):
                rows = bench.run()
        except Exception as error:
            traceback.print_exc()
            reason = str(error).strip().splitlines()[-1:] or [""]
            rows = [Row(f"{bench.name}: not measured", type(error).__name__, reason[0][:80], met=False)]
        finally:
            left = clear_up()
    if left:
        rows.append(Row(f"{bench.name}: processes left behind", str(len(left)), left[0], "none", False))
    return rows


def main() -> int:
    """Returns 1 when a bar was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    known = [bench.name for bench in BENCHES]
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of {', '.join(known)}; none for all")
    names = parser.parse_args().names or known
    if unknown := set(names) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    orphans.adopt()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended too
    about, began = machine(), time.monotonic()
    print("\n".join(about), flush=True)
    results: list[Result] = []
    for bench in BENCHES:
        if bench.name in names:
            at = time.monotonic()
            rows = measure(bench)
            results.append((bench, rows))
            print(f"\n{bench.name}, {time.monotonic() - at:.0f} s\n{terminal(rows)}", flush=True)
    if len(results) == len(BENCHES):
        target = ROOT / "docs" / "benchmarks.md"
        target.parent.mkdir(exist_ok=True)
        target.write_text(document(results, about, time.monotonic() - began))
        print(f"\nwritten: {target.relative_to(ROOT)}")
    return int(any(row.met is False for _, rows in results for row in rows))


if __name__ == "__main__":
    sys.exit(main())
