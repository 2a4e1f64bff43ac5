"""What happens in one simulated session, drawn from a seed: its shape, its cells, and what befalls it."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from modal_magic import protocol as p
from tests.simulation.ranks import Kind, Program, Step

__all__ = ["Cell", "Fault", "Schedule", "draw"]

NEVER = 60.0
"""Longer than any cell is let run."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell and what it does on each rank, by the attempt; the last program goes for all that follow.

    A hasty one is sent without waiting for the one before it. `timeout` in seconds.
    """

    run: str
    ranks: tuple[int, ...] | None
    programs: tuple[dict[int, Program], ...]
    hasty: bool = False
    timeout: float | None = None
    retries: p.Retries | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that befalls the session so many seconds after a cell was sent."""

    cell: int
    delay: float
    kind: str
    target: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """A session from its start to its end. Times in seconds."""

    seed: int
    nodes: int
    ranks_per_node: int
    grouped: bool
    lease: float
    idle: float | None
    max_lifetime: float | None
    slowest: float
    cells: tuple[Cell, ...]
    faults: tuple[Fault, ...]

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.nodes * self.ranks_per_node

    def lines(self) -> list[str]:
        """The schedule as text."""
        told = [
            f"seed {self.seed}: {self.nodes} nodes × {self.ranks_per_node} ranks, "
            f"{'a process group' if self.grouped else 'no process group'}, lease {self.lease:.1f} s, "
            f"idle {self.idle}, max-lifetime {self.max_lifetime}, "
            f"messages take up to {self.slowest * 1000:.1f} ms"
        ]
        for number, cell in enumerate(self.cells):
            told.append(f"cell {cell.run} on {'all ranks' if cell.ranks is None else f'ranks {cell.ranks}'}")
            told.append(f"    timeout {cell.timeout}, {cell.retries}")
            for attempt, programs in enumerate(cell.programs, 1):
                told += _told(attempt, list(programs.values()), programs)
            told += [
                f"    after {fault.delay:.4f} s: {fault.kind} {fault.target} ({fault.seconds:.3f} s)"
                for fault in self.faults
                if fault.cell == number
            ]
        return told


def _told(attempt: int, all_of_them: list[Program], programs: dict[int, Program]) -> list[str]:
    plain = max(all_of_them, key=all_of_them.count)
    told = [f"    attempt {attempt}: {_program(plain)}"]
    return told + [f"        rank {rank}: {_program(own)}" for rank, own in programs.items() if own != plain]


def _program(program: Program) -> str:
    return ", ".join(f"{step.kind} {step.seconds:.3f}" if step.seconds else step.kind for step in program)


SHAPES = ((1, 4), (1, 4), (1, 4), (2, 2), (2, 2), (2, 2), (4, 1), (4, 1), (1, 8), (2, 4), (4, 2), (4, 4))
LARGE = ((8, 8), (16, 8), (128, 8))
SPECIAL: tuple[Kind, ...] = ("raise", "raise", "die", "exit", "stuck", "stubborn", "issue", "compute")
FAULTS = {
    "interrupt": 6,
    "lose": 6,
    "restart": 2,
    "restart all": 1,
    "kill agent": 1,
    "still node": 3,
    "reset node": 3,
    "noisy node": 2,
    "full node": 1,
    "cut node": 0.2,
    "new agent": 2,
    "still client": 2,
    "reset client": 2,
    "noisy client": 2,
    "full client": 2,
    "other client": 1,
    "visitor": 2,
    "other runs": 2,
    "other interrupts": 2,
    "cancel": 2,
    "new kernel": 2,
    "stop": 0.3,
    "full stop": 0.3,
    "kill gateway": 0.3,
}
"""What befalls a session, and how often. A peer that is full takes nothing for a while; a full stop is the user's whose
kernel is full."""


def draw(seed: int) -> Schedule:
    """The schedule of a seed."""
    random = Random(seed)
    nodes, ranks_per_node = random.choice(LARGE if random.random() < 0.0005 else SHAPES)
    size = nodes * ranks_per_node
    cells = tuple(_cell(random, f"{seed}-{number}", size) for number in range(random.choice((1, 1, 1, 2, 2, 3))))
    kinds = random.choices(list(FAULTS), list(FAULTS.values()), k=random.choice((0, 1, 1, 2, 2, 3)))
    faults = [_fault(random, kind, len(cells), size, nodes) for kind in kinds]
    return Schedule(
        seed,
        nodes,
        ranks_per_node,
        random.random() < 0.9,
        _between(random, 0.3, 1.5),
        _between(random, 1.0, 10.0) if random.random() < 0.1 else None,
        _between(random, 0.5, 20.0) if random.random() < 0.1 else None,
        random.choice((5e-4, 5e-3, 0.03)),
        cells,
        tuple(faults),
    )


def _between(random: Random, least: float, most: float) -> float:
    return float(least * (most / least) ** random.random())


def _cell(random: Random, run: str, size: int) -> Cell:
    ranks = None if random.random() < 0.75 else tuple(sorted(random.sample(range(size), random.randint(1, size))))
    chosen = range(size) if ranks is None else ranks
    kinds: tuple[Kind, ...] = ("print", "compute", "collective") if ranks is None else ("print", "compute")
    plain = [_step(random, random.choice(kinds)) for _ in range(random.randint(1, 4))]
    programs: dict[int, Program] = dict.fromkeys(chosen, tuple(plain))
    sound = programs.copy()
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        rank = random.choice(chosen)
        own = list(programs[rank])
        if random.random() < 0.15 and own:
            own.pop(random.randrange(len(own)))
        else:
            own.insert(random.randint(0, len(own)), _step(random, random.choice(SPECIAL)))
        programs[rank] = tuple(own)
    if random.random() < 0.1:  # the same on every rank
        last = _step(random, random.choice(SPECIAL))
        programs = {rank: (*own, last) for rank, own in programs.items()}
    return Cell(
        run,
        ranks,
        (programs, random.choice((sound, programs))),
        random.random() < 0.2,
        _between(random, 0.05, 3.0) if random.random() < 0.15 else None,
        _retries(random) if random.random() < 0.3 else None,
    )


def _retries(random: Random) -> p.Retries:
    return p.Retries(
        random.randint(1, 3), random.choice((0.0, 0.1, 1.0)), random.choice((1.0, 2.0)), 1.5, random.random() < 0.4
    )


def _step(random: Random, kind: Kind) -> Step:
    match kind:
        case "compute":
            return Step(kind, NEVER if random.random() < 0.1 else _between(random, 1e-4, 0.3))
        case "stuck":
            return Step(kind, NEVER if random.random() < 0.4 else _between(random, 1e-2, 1.0))
        case "stubborn":
            return Step(kind, _between(random, 1e-2, NEVER))
        case _:
            return Step(kind)


def _fault(random: Random, kind: str, cells: int, size: int, nodes: int) -> Fault:
    target = random.randrange(size if kind in ("lose", "restart") else nodes)
    seconds = _between(random, 2.0, 30.0) if kind == "cut node" else _between(random, 0.01, 4.0)
    return Fault(random.randrange(cells), _between(random, 1e-4, 2.0), kind, target, seconds)
