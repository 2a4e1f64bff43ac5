"""The benchmarks: every figure beside the baseline that is measured next to it, in one run on one machine.

`python -m tests.bench` runs all and writes docs/benchmarks.md; `python -m tests.bench pass flood` runs some and prints.
"""
