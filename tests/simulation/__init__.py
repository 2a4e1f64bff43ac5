"""A session in one process on a simulated clock and network: the real gateway, machine and log, a model of the rest.

`python -m tests.simulation SEED` plays one schedule and prints it.
"""
