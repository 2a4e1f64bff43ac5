"""The faults that befall a real session: what the cell does, what is done to it, and what must be said of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

__all__ = ["CONTROL_SECONDS", "RANKS", "SESSION", "WAITS", "Fault", "Hit", "draw", "one_apart"]

RANKS = 4
CONTROL_SECONDS = 2.0
"""From the fault to control."""
CELL = "%%modal_distributed\n"
SESSION = 'next(iter(get_ipython().magics_manager.registry["ModalMagics"].sessions.attached.values()))'
"""The session, as an expression in its kernel."""

WAITS = {
    "all_reduce": "dist.all_reduce(torch.ones(8))",
    "barrier": "dist.barrier()",
    "all_gather_object": "dist.all_gather_object([None] * world_size, rank)",
    "DDP backward": "ddp(torch.ones(1, 4)).sum().backward()",
    "new_group": "dist.new_group()",
    "init": "dist.destroy_process_group(); dist.init_process_group('gloo')",
    "destroy": "dist.barrier(); dist.destroy_process_group()",
}
"""What ranks can wait in for one that does not come."""

MUCH = "much = torch.ones(8_000_000)"
WORK = {
    "train": "ddp.zero_grad(); ddp(torch.ones(1, 4)).sum().backward()",
    "send much": "dist.broadcast(much, 0)",
    "make groups": "dist.new_group()",
    "form their group": "dist.destroy_process_group(); dist.init_process_group('gloo')",
}
"""What ranks can do again and again when one of them dies."""

DEATHS = {
    "os.kill(os.getpid(), signal.SIGKILL)": "was killed by SIGKILL",
    "os._exit(7)": "ended its process with exit code 7",
    "ctypes.string_at(0)": "crashed with SIGSEGV",
}
STUCK = "ctypes.PyDLL(None).sleep(1000)"
"""Holds the interpreter: no signal is heard, no other thread runs."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A signal to a part of the session, `rank 2`, `agent 0`, `gateway` or `zygote`, so many seconds into the cell."""

    seconds: float
    part: str
    signal: signal.Signals = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. Exactly one of the `outcomes` must come: the name of an error, or nothing where the cell ends well.

    `told` are words that the error must have; `lost` are the ranks whose variables are gone afterwards. `interrupt` is
    how long after the cell began (`begun` was printed) the kernel is interrupted; `hits` are what is done from outside.
    Control must be back `control` seconds after the last of it. A fault that `ends` the session leaves ranks to work
    with (`left`), which have kept what they had, or none.
    """

    name: str
    cell: str
    outcomes: tuple[str, ...]
    told: tuple[str, ...] = ()
    lost: frozenset[int] = frozenset()
    interrupt: float | None = None
    waits_for_begin: bool = True
    hits: tuple[Hit, ...] = ()
    control: float = CONTROL_SECONDS
    ends: bool = False
    left: tuple[int, ...] = ()


def one_apart(rank: int, deed: str, others: str) -> str:
    """A cell in which one rank does one thing, and the others another."""
    return f"{CELL}print('begun', flush=True)\nif rank == {rank}:\n    {deed}\nelse:\n    {others}\n"


def raises(random: Random) -> Fault:
    """One rank raises, the others end or wait for it."""
    rank = random.randrange(RANKS)
    where, others = random.choice([("alone", "pass"), *WAITS.items()])
    told = (f"rank {rank} raised ValueError: chosen at cell line 4", "variables are kept on all ranks")
    return Fault(
        f"rank {rank} raises, the others: {where}",
        one_apart(rank, "raise ValueError('chosen')", others),
        ("RankFailed",),
        told,
    )


def all_raise(random: Random) -> Fault:
    """All ranks raise the same."""
    return Fault("all raise", f"{CELL}1 / 0", ("RankFailed",), ("ZeroDivisionError", "variables are kept on all ranks"))


def interrupted(random: Random) -> Fault:
    """The kernel is interrupted while one rank runs Python and the others wait for it."""
    rank = random.randrange(RANKS)
    where, others = random.choice(
        [*WAITS.items(), ("sleep", "time.sleep(60)"), ("child", "subprocess.run(['sleep', '60'])")]
    )
    deed = random.choice(("time.sleep(60)", "\n    while True: pass"))
    return Fault(
        f"interrupt: rank {rank} in Python, the others: {where}",
        one_apart(rank, deed, others),
        ("RunInterrupted",),
        ("variables are kept on all ranks",),
        interrupt=random.uniform(0, 0.4),
    )


def interrupted_at_once(random: Random) -> Fault:
    """The kernel is interrupted at any moment of a short cell of many collectives, begun or not."""
    return Fault(
        "interrupt at any moment",
        f"{CELL}for _ in range({random.choice((1, 20, 200))}): dist.all_reduce(torch.ones(8))",
        ("RunInterrupted", "KeyboardInterrupt", ""),
        interrupt=random.uniform(0, 0.1),
        waits_for_begin=False,
    )


def stuck(random: Random) -> Fault:
    """The kernel is interrupted while one rank holds the interpreter: that one is killed."""
    rank = random.randrange(RANKS)
    where, others = random.choice(list(WAITS.items())[:4])
    return Fault(
        f"interrupt: rank {rank} holds the GIL, the others: {where}",
        one_apart(rank, STUCK, others),
        ("RunInterrupted",),
        (f"rank {rank} had to be killed",),
        frozenset({rank}),
        interrupt=random.uniform(0.1, 0.4),
    )


def dies(random: Random) -> Fault:
    """The process of a rank ends, the others wait for it or run on."""
    rank = random.randrange(RANKS)
    deed, cause = random.choice(list(DEATHS.items()))
    where, others = random.choice([*list(WAITS.items())[:4], ("sleep", "time.sleep(60)")])
    return Fault(
        f"rank {rank} {cause}, the others: {where}",
        one_apart(rank, deed, others),
        ("RankFailed",),
        (f"rank {rank} {cause}", "started again without variables"),
        frozenset({rank}),
    )


def killed(random: Random) -> Fault:
    """One or two ranks are killed from outside at any moment of what all do together."""
    ranks = random.sample(range(RANKS), random.choice((1, 1, 2)))
    first = random.uniform(0, 0.3)
    times = sorted(first + random.uniform(0, 0.02) for _ in ranks)  # before the run is over that the first one ends
    do, work = random.choice(list(WORK.items()))
    return Fault(
        f"ranks {ranks} are killed at {', '.join(f'{at:.3f} s' for at in times)}, all {do}",
        f"{CELL}{MUCH}\nprint('begun', flush=True)\nfor _ in range(100000):\n    {work}",
        ("RankFailed",),
        ("killed by SIGKILL", "started again without variables"),
        frozenset(ranks),
        hits=tuple(Hit(at, f"rank {rank}") for at, rank in zip(times, ranks, strict=True)),
    )


def frozen(random: Random) -> Fault:
    """A rank stands still while much is sent to it; then it is killed, or the kernel is interrupted."""
    rank, is_killed = random.randrange(RANKS), random.random() < 0.5
    stop = f"threading.Timer({random.uniform(0, 0.1)}, os.kill, [os.getpid(), signal.SIGSTOP]).start()"
    cell = f"{CELL}{MUCH}\ndist.barrier()\nprint('begun', flush=True)\nif rank == {rank}: {stop}\n"
    told = f"rank {rank} was killed by SIGKILL" if is_killed else f"rank {rank} had to be killed"
    return Fault(
        f"rank {rank} stands still and is {'killed' if is_killed else 'interrupted'}, the others send it much",
        f"{cell}while True: dist.broadcast(much, 0)",
        ("RankFailed" if is_killed else "RunInterrupted",),
        (told,),
        frozenset({rank}),
        interrupt=None if is_killed else random.uniform(0.2, 0.4),
        hits=(Hit(random.uniform(0.2, 0.4), f"rank {rank}"),) if is_killed else (),
    )


def exits(random: Random) -> Fault:
    """`sys.exit` in a cell is an ordinary end."""
    code = random.randrange(2)
    told = (f"sys.exit({code})", "variables are kept on all ranks") if code else ()
    return Fault(f"sys.exit({code})", f"{CELL}import sys\nsys.exit({code})", ("RankFailed" if code else "",), told)


def restarted(random: Random) -> Fault:
    """The user starts a rank anew, or all of them."""
    if random.random() < 0.2:
        return Fault("restart of all", f"{SESSION}.restart()", ("",), lost=frozenset(range(RANKS)))
    rank = random.randrange(RANKS)
    return Fault(f"restart of rank {rank}", f"{SESSION}.restart([{rank}])", ("",), lost=frozenset({rank}))


def left_behind(random: Random) -> Fault:
    """A cell on one rank leaves a collective behind that the others know nothing of."""
    rank = random.randrange(RANKS)
    cell = f"%%modal_distributed --ranks {rank}\nleft = dist.all_reduce(torch.full((1,), 1000.0), async_op=True)"
    return Fault(f"rank {rank} leaves a collective behind", cell, ("",))


ON_RANKS: dict[Callable[[Random], Fault], int] = {
    raises: 6,
    all_raise: 1,
    interrupted: 5,
    interrupted_at_once: 3,
    stuck: 1,
    dies: 4,
    killed: 3,
    frozen: 1,
    exits: 1,
    restarted: 2,
    left_behind: 1,
}


def draw(random: Random, drawn: dict[Callable[[Random], Fault], int] = ON_RANKS) -> Fault:
    """The next fault."""
    return random.choices(list(drawn), list(drawn.values()))[0](random)
