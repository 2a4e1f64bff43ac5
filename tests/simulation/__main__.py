"""`python -m tests.simulation SEED`: plays one schedule and prints it; `--count N`: plays N from there on."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.play import failing, play


def main() -> int:
    """Returns 1 when something happened that must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--count", type=int, default=0, help="play so many seeds, and print those that fail")
    chosen = parser.parse_args()
    if not chosen.count:
        played = play(chosen.seed, traced=True)
        print("\n".join(played.lines))
        print(f"VIOLATION: {played.violation}" if played.violation else "all was as it must be")
        return int(bool(played.violation))
    began = time.process_time()
    failed = failing(chosen.seed, chosen.count)
    for played in failed[:20]:
        print(f"seed {played.seed}: {played.violation}")
    print(f"{chosen.count} schedules in {time.process_time() - began:.1f} s of one core, {len(failed)} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
