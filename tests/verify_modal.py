"""What only Modal itself can confirm: `python -m tests.verify_modal`, with a token. It starts containers, which cost.

Each line says `confirmed`, `failed`, or `not checked` with the reason. The exit status is 1 where something failed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modal_magic import ModalMagicError, RankFailed, Session
from modal_magic.sessions.resources import Resources
from modal_magic.view.money import cost_line
from modal_magic.view.startup import startup_line

PLACE = """
import os, random, socket, torch
address = socket.getaddrinfo("i6pn.modal.local", None, socket.AF_INET6)[0][4][0]
with socket.socket(socket.AF_INET6) as probe:
    probe.bind((address, 0))  # it is this container's own
with open("/proc/net/if_inet6") as interfaces:
    packed = socket.inet_pton(socket.AF_INET6, address).hex()
    interface = next((line.split()[-1] for line in interfaces if line.startswith(packed)), "")
found = (
    address, interface, os.environ["GLOO_SOCKET_IFNAME"], os.environ["MASTER_ADDR"], os.environ.get("MODAL_REGION"),
    os.environ.get("MODAL_TASK_ID"), random.random(), str(device),
    torch.cuda.get_device_name() if torch.cuda.is_available() else "",
)
found
"""
SUM = """
import torch, torch.distributed as dist
total = torch.ones(1, device=device)
dist.all_reduce(total)
int(total.item())
"""
SAVING = """
import modal_magic, time
@modal_magic.on_preempt
def count():
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < 40:
        print(f"alive for {seconds:.1f} s", flush=True)
        time.sleep(0.5)
"""


TOGETHER = """
import time, torch, torch.distributed as dist
while True:
    dist.all_reduce(torch.ones(1, device=device))
    time.sleep(0.1)
"""


class Checklist:
    """What was found so far."""

    def __init__(self) -> None:
        self.failed = 0

    def say(self, verdict: str, what: str) -> None:
        print(f"{verdict:12} {what}", flush=True)

    def check(self, holds: bool, what: str, found: object = "") -> None:
        """A point that is confirmed or not."""
        self.failed += not holds
        self.say("confirmed" if holds else "failed", f"{what}{f': {found}' if found != '' else ''}")

    def skip(self, what: str, why: str) -> None:
        self.say("not checked", f"{what}: {why}")


def values(session: Session, source: str) -> dict[int, object]:
    """The value of a cell's last expression on each rank."""
    run = session.run(source).wait(300)
    return {rank: eval(text) for rank, text in run.result.items()}


def short_cells(session: Session) -> str:
    """How long a cell takes that does nothing."""
    session.run("pass").wait(60)
    took = []
    for _ in range(20):
        began = time.monotonic()
        session.run("pass").wait(60)
        took.append(1000 * (time.monotonic() - began))
    return f"{statistics.median(took):.0f} ms in the middle, {max(took):.0f} ms at most, of 20"


@contextmanager
def session_of(resources: Resources, checks: Checklist, **options: object) -> Iterator[Session]:
    """A session that is up. At its end Modal's own list must have none of its containers."""
    began = time.monotonic()
    session = Session(resources=resources, backend="modal", lease=120.0, **options).ready(1200)
    print(
        f"\n{session.name} is up after {time.monotonic() - began:.0f} s: {startup_line(session.stages, session.now())}"
    )
    try:
        yield session
    finally:
        told = cost_line(session.cost) if session.cost is not None else "has no known price"
        try:
            session.stop(60)
            checks.check(True, "no container of the session is left on Modal's list")
        except ModalMagicError as error:
            checks.check(False, "no container of the session is left on Modal's list", error)
        print(f"the session {told}")


def check_places(session: Session, checks: Checklist, gpu: str | None) -> None:
    """Addresses, interfaces, regions, random numbers, GPUs, and that nodes reach each other."""
    found = {rank: tuple(value) for rank, value in values(session, PLACE).items()}  # type: ignore[call-overload]
    addresses = [one[0] for one in found.values()]
    nodes = session.shape.replicas
    checks.check(len(set(addresses)) == nodes, "i6pn.modal.local is each container's own address", addresses)
    checks.check(found[0][0] == found[0][3], "MASTER_ADDR is the address of node 0", found[0][3])
    checks.check(
        all(one[1] == one[2] != "" for one in found.values()), "the interface is found by its address", found[0][1]
    )
    regions = sorted({str(one[4]) for one in found.values()})
    checks.check(len(regions) == 1, "all nodes are in one region", regions)
    checks.check(len({one[6] for one in found.values()}) == len(found), "ranks draw random numbers of their own")
    sums = set(values(session, SUM).values())
    checks.check(sums == {session.world_size}, "nodes of separate calls reach each other: an all_reduce over all ranks")
    if gpu:
        checks.check(all(str(one[7]).startswith("cuda") for one in found.values()), "each rank has a GPU", found[0][8])
        told = set(values(session, "import os\ndist.get_backend(), os.environ['NCCL_SOCKET_IFNAME']").values())
        checks.check(all("nccl" in str(one) for one in told), "the process group is of NCCL, on this interface", told)
    else:
        checks.skip("ranks on GPUs, NCCL and its interface", "no --gpu was given")


def check_preemption(session: Session, checks: Checklist) -> None:
    """`modal container stop` sends what a preemption sends. The node must come back under its number."""
    what = "a container that is told to go lets its ranks save"
    task = values(session, PLACE)[session.world_size - 1][5]  # type: ignore[index]
    session.run(SAVING).wait(60)
    run = session.run(TOGETHER, timeout=300.0)
    stop = [sys.executable, "-m", "modal", "container", "stop", "--yes", str(task)]
    told = subprocess.run(stop, capture_output=True, text=True, check=False)
    if told.returncode:
        checks.skip(what, f"`modal container stop {task}` failed: {told.stderr.strip()[-200:]}")
        return
    try:
        run.wait(120)
        checks.check(False, "the run ends when a node is taken away", "it went on")
    except RankFailed as error:
        checks.check(True, "the run ends when a node is taken away", str(error).partition(".")[0])
    until = time.monotonic() + 300
    while session.status().state != "ready" and time.monotonic() < until:
        time.sleep(1)
    lines = [line.text for line in session.logs(run=run.id) if "alive for" in line.text]
    checks.check(bool(lines), what, lines[-1] if lines else "the log has nothing of it")
    checks.check(session.status().state == "ready", "the node comes back and the group is made anew", session.state)
    if session.status().state == "ready":
        checks.check(set(values(session, SUM).values()) == {session.world_size}, "and works again")


def main() -> int:
    """Go through the list."""
    parser = argparse.ArgumentParser(prog="python -m tests.verify_modal", description=__doc__)
    parser.add_argument("--gpu", help="GPU of each node, as T4; without one the nodes have none")
    parser.add_argument("--replicas", type=int, default=2, help="nodes of the sessions")
    parser.add_argument("--gpu-snapshot", action="store_true", help="also start from a snapshot of the GPU's memory")
    given = parser.parse_args()
    if "modal.com" not in (server := os.environ.get("MODAL_SERVER_URL", "https://api.modal.com")):
        print(f"This is a rehearsal: {server} is not Modal, so nothing here is confirmed of Modal.")
    checks, resources = Checklist(), Resources()
    options = {"replicas": given.replicas, "gpu": given.gpu}
    steps: list[Callable[[], None]] = [
        lambda: first_session(resources, checks, options),
        lambda: second_session(resources, checks, options),
        lambda: over_the_queue(resources, checks, options),
    ]
    if given.gpu and given.gpu_snapshot:
        steps.append(lambda: gpu_snapshot(resources, checks, options))
    else:
        checks.skip("a snapshot of the GPU's memory", "it needs --gpu and --gpu-snapshot")
    for step in steps:
        try:
            step()
        except (ModalMagicError, TimeoutError) as error:
            checks.check(False, "this part came to its end", f"{type(error).__name__}: {error}")
    checks.skip("what Modal bills", "compare the sums above with the page of your workspace")
    checks.skip("a preemption by Modal itself, and its rate", "`modal container stop` stood for it")
    checks.skip("what Modal does of an app whose containers crash again and again", "it would take long and cost")
    resources.close()
    print(f"\n{checks.failed} failed" if checks.failed else "\nNothing failed.")
    return int(checks.failed > 0)


def first_session(resources: Resources, checks: Checklist, options: dict[str, object]) -> None:
    """The image is built, and the snapshot made."""
    with session_of(resources, checks, **options) as session:
        checks.check(True, "the image builds, the app is deployed, and a session starts")
        check_places(session, checks, session.shape.gpu)


def second_session(resources: Resources, checks: Checklist, options: dict[str, object]) -> None:
    """The same from the snapshot, over the tunnel; then a node is taken away."""
    with session_of(resources, checks, link="tunnel", **options) as session:
        restored = [stage.node for stage in session.stages if stage.name == "restore"]
        if restored:
            checks.check(True, "nodes are restored from the memory snapshot", f"nodes {restored}")
            lost = [text for text in drained(session) if "did not bring back" in text]
            checks.check(not lost, "what was started before the snapshot is there after it", *lost[:1])
        else:
            checks.skip("a start from the memory snapshot", "all nodes started cold; run this again in some minutes")
        check_places(session, checks, session.shape.gpu)
        checks.check(True, "a short cell through the tunnel", short_cells(session))
        check_preemption(session, checks)


def over_the_queue(resources: Resources, checks: Checklist, options: dict[str, object]) -> None:
    """The same cells, through a queue."""
    with session_of(resources, checks, link="queue", **options) as session:
        checks.check(True, "a short cell through the queue", short_cells(session))


def gpu_snapshot(resources: Resources, checks: Checklist, options: dict[str, object]) -> None:
    """Two sessions with the GPU in the snapshot: the second one is restored from it."""
    for again in (False, True):
        with session_of(resources, checks, snapshot="gpu", **options) as session:
            check_places(session, checks, session.shape.gpu)
            restored = any(stage.name == "restore" for stage in session.stages)
            if again:
                checks.check(restored, "nodes are restored from a snapshot with the GPU's memory")


def drained(session: Session) -> list[str]:
    """What the session had to say so far."""
    found = []
    while not session.notices.empty():
        found.append(session.notices.get())
    return found


if __name__ == "__main__":
    sys.exit(main())
