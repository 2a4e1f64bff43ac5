"""Real processes under real faults, drawn by seed, in one session: `python -m tests.chaos SEED --count N`."""
