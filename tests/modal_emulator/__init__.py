"""An emulator of Modal's control plane: the unmodified client and container entrypoint talk to it.

A container is a process of this machine in a network namespace of its own, with an address as on i6pn. What it cannot
stand for: GPUs and NCCL, gVisor, real queues, placement and latency, image builds, quotas and bills.
"""
