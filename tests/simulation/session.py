"""One simulated session: the real gateway between models of clients and nodes, and what befalls them."""

from __future__ import annotations

from dataclasses import dataclass

from modal_magic import protocol as p
from modal_magic.gateway import Gateway
from modal_magic.specs import GatewaySpec
from modal_magic.state import SessionState
from tests.simulation.agents import Agent
from tests.simulation.clients import Client
from tests.simulation.groups import Keeper
from tests.simulation.ranks import Programs, Step
from tests.simulation.schedule import Cell, Fault, Schedule
from tests.simulation.world import Violation, Wire, World, is_beat

__all__ = ["CLOCK_SECONDS", "Attempt", "Simulation"]

PATIENCE_SECONDS = 4.0
"""After so long somebody presses the stop button."""
CLOCK_SECONDS = 0.01
"""No clock of a session is wrong by so much."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a run: when it was sent to its ranks (None: never), when it ended, and how that was told.

    `closing` says that the session ended it.
    """

    run: str
    number: int
    begun: float | None
    ended: float
    event: p.RunEnded | p.RunRetried
    closing: bool


class _Door:
    """A door of the gateway."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wires: dict[bytes, Wire] = {}

    def send(self, identity: bytes, *frames: bytes) -> bool:
        """See `Door`."""
        wire = self.wires.get(identity)
        if wire is None or not wire.takes:
            return False
        wire.down(list(frames))
        return True

    def waiting(self) -> bool:
        """See `Door`: what has come has been read."""
        return False


class Simulation:
    """A session under a schedule, up to its end."""

    def __init__(self, schedule: Schedule, folder: str, traced: bool = False) -> None:
        self.schedule = schedule
        self.world = world = World(schedule.seed, traced)
        self.programs: Programs = {}
        size = schedule.world_size
        self.keeper = Keeper(world, size) if schedule.grouped else None
        self.client_door, self.node_door = _Door(world), _Door(world)
        self.gateway_alive, self.gateway_killed = True, False
        self.gateway = Gateway(
            _specification(schedule, folder),
            p.Store("127.0.0.1", 1, "simulated") if schedule.grouped else None,
            self.client_door,
            self.node_door,
            lambda: world.now,
            lambda: world.now,
        )
        self.append, self.gateway.log.append = self.gateway.log.append, self.record  # type: ignore[method-assign]
        self.logged: list[tuple[float, p.Event]] = []
        self.submitted: dict[str, float] = {}
        self.attempts: list[Attempt] = []
        self.ended: dict[str, tuple[float, p.RunEnded]] = {}
        self.wakes = float("inf")
        self.clocks: dict[str, float] = {}
        self.agents: list[Agent] = []
        self.nodes: list[Agent] = []
        self.clients: list[Client] = []
        self.cells: dict[str, Cell] = {}
        self.sent: dict[str, tuple[float, Client]] = {}
        self.taken: set[str] = set()
        self.interrupted: dict[str, float] = {}
        self.restarts: list[tuple[Client, str]] = []
        self.faulty_nodes: set[int] = set()
        self.gone_nodes: set[int] = set()
        self.to_come = 0
        self.ending = False
        for number in range(schedule.nodes):
            self.nodes.append(self.start_agent(number, 1))
        self.user = self.enter()
        self.tick()
        self.turn()

    # -- connections

    def _connect(self, name: str, identity: bytes, door: _Door, take: object) -> Wire:
        receive = self.gateway.from_node if door is self.node_door else self.gateway.from_client

        def to_gateway(frames: list[bytes]) -> None:
            if self.gateway_alive:
                if receive == self.gateway.from_client:
                    self.note_request(identity, frames)
                receive(identity, frames)
                if not is_beat(frames):  # these bring nothing to do
                    self.turn()

        wire = door.wires[identity] = Wire(self.world, name, to_gateway, take, self.schedule.slowest)  # type: ignore[arg-type]
        return wire

    def start_agent(self, number: int, life: int) -> Agent:
        """The zygote of a node forks its agent; the first is the first life of it."""
        agent = Agent(self.world, number, self.keeper, self.programs, life)
        agent.wire = self._connect(agent.name, agent.identity, self.node_door, agent.take)
        self.agents.append(agent)
        self.world.after(self.world.between(1e-3, 0.05), agent.join)
        return agent

    def enter(self) -> Client:
        """A kernel attaches."""
        client = Client(self.world, f"client {len(self.clients) + 1}", lambda: self.gateway_alive)
        client.wire = self._connect(client.name, client.identity, self.client_door, client.take)
        self.clients.append(client)
        client.attach()
        return client

    def tick(self) -> None:
        """Everybody's beat: those of clients are heard at once, where the connection flows."""
        for agent in self.agents:
            if agent.alive:
                assert agent.wire is not None
                agent.beat()
        for client in self.clients:
            if client.closed is None and client.wire is not None:
                known = self.gateway.clients.present(client.identity)
                if client.wire.flows and self.gateway_alive and known is not None:
                    known.heard = client.heard = self.world.now
                client.beat()
        self.world.after(p.BEAT_SECONDS, self.tick)

    # -- the gateway

    def turn(self) -> None:
        """The gateway's loop goes round."""
        if not self.gateway_alive:
            return
        self.gateway.turn()
        if self.gateway.ended is not None:
            self.gateway.close(self.gateway.ended)
            self.end_gateway()
            return
        self.watch_clocks()
        due = max(self.gateway.due(), self.world.now)
        if due < self.wakes:
            self.wakes = due
            self.world.at(due, self.wake, due)

    def wake(self, due: float) -> None:
        """Something is due in the gateway, unless it was looked at sooner."""
        if due == self.wakes:
            self.wakes = float("inf")
            self.turn()

    def end_gateway(self) -> None:
        """The gateway's process is gone; its zygote tells the agents."""
        self.gateway_alive = False
        self.world.note("gateway", "is gone")
        for agent in self.agents:
            self.world.after(0.01, agent.leave, "its gateway is gone")

    def watch_clocks(self) -> None:
        """Since when nobody is attached and nothing runs, and since when nothing runs; neither may go on for longer."""
        machine, now, schedule = self.gateway.machine, self.world.now, self.schedule
        if machine.state in (SessionState.CLOSING, SessionState.CLOSED):
            return
        busy = machine.active is not None or bool(machine.queue.runs)
        self.watch_clock("lease", not busy and not self.gateway.clients, schedule.lease)
        if schedule.idle is not None:
            self.watch_clock("--idle", not busy and machine.state is not SessionState.LAUNCHING, schedule.idle)
        if schedule.max_lifetime is not None and now > schedule.max_lifetime + CLOCK_SECONDS:
            raise Violation(f"the session lives for more than its {schedule.max_lifetime} s")

    def watch_clock(self, name: str, runs: bool, limit: float) -> None:
        """A clock runs, or does not."""
        if not runs:
            self.clocks.pop(name, None)
        elif self.world.now > self.clocks.setdefault(name, self.world.now) + limit + CLOCK_SECONDS:
            raise Violation(f"the session outlives its {name} of {limit} s")

    def note_request(self, identity: bytes, frames: list[bytes]) -> None:
        """From now on a run is the gateway's to end, or is to be left if it is there."""
        client = self.gateway.clients.present(identity)
        if client is None or len(frames) != 2 or p.number_of(frames[0]) != client.taken + 1:
            return
        match p.decode_request(frames[1]):
            case p.Run(task=task):
                self.taken.add(task.run)
            case p.InterruptRun(run=run) if run in self.taken:
                self.interrupted.setdefault(run, self.world.now)

    def record(self, event: p.Event, _: float, withheld: bool = False) -> bytes:
        """The gateway logs an event; here with the time of this world."""
        self.world.note("gateway", "≡", event)
        self.logged.append((self.world.now, event))
        if isinstance(event, p.Submitted):
            self.submitted[event.run] = self.world.now
        elif isinstance(event, p.RunEnded | p.RunRetried):
            number = sum(attempt.run == event.run for attempt in self.attempts) + 1
            begun = self.submitted.get(event.run)
            closing = self.gateway.machine.state is SessionState.CLOSING
            self.attempts.append(Attempt(event.run, number, begun, self.world.now, event, closing))
            if isinstance(event, p.RunEnded):
                self.ended[event.run] = (self.world.now, event)
        return self.append(event, self.world.now, withheld)

    # -- what the schedule says

    def send(self, number: int) -> None:
        """Send a cell, with all that befalls the session after it."""
        cell = self.schedule.cells[number]
        self.run(cell, self.user)
        for fault in self.schedule.faults:
            if fault.cell == number:
                self.to_come += 1
                self.world.after(fault.delay, self.befall, fault, cell)

    def run(self, cell: Cell, client: Client) -> None:
        """Have a client run a cell; it loses its patience after a while."""
        self.programs[cell.run], self.cells[cell.run] = cell.programs, cell
        self.sent[cell.run] = (self.world.now, client)
        client.run(cell)
        self.world.after(PATIENCE_SECONDS, self.interrupt, cell.run, client)

    def interrupt(self, run: str, client: Client) -> None:
        """Somebody interrupts a run that goes on, and goes on doing so."""
        if run in self.ended or not self.gateway_alive:
            return
        if client.closed is not None:
            client = self.user
        if client.closed is None and (client is self.sent[run][1] or run in self.submitted):
            client.send(p.InterruptRun(run))
        self.world.after(PATIENCE_SECONDS, self.interrupt, run, client)

    def over(self, run: str) -> bool:
        """Whether a run is over for who sent it."""
        return self.sent[run][1].views[run].ended

    def befall(self, fault: Fault, cell: Cell) -> None:
        """A fault of the schedule comes."""
        self.world.note("schedule", f"-- {fault.kind} {fault.target}")
        self.to_come -= 1
        agent = self.nodes[fault.target % len(self.nodes)]
        assert self.user.wire is not None and agent.wire is not None
        match fault.kind:
            case "interrupt":
                self.interrupt(cell.run, self.user)
            case "lose":
                self.lose(fault.target)
            case "restart" | "restart all":
                ranks = [fault.target] if fault.kind == "restart" else None
                name = f"restart-{len(self.restarts)}"
                self.restarts.append((self.user, name))
                self.user.send(p.Restart(name, ranks))
            case "kill agent" if agent.alive and agent.identity in self.gateway.agents:
                self.suffers(agent)
                self.gone_nodes.add(agent.node_rank)
                agent.die()
            case "new agent" if agent.alive and agent.identity in self.gateway.agents:
                self.suffers(agent)
                agent.die()
                self.world.after(self.world.between(0.01, 0.2), self.replace, agent)
            case "cut node" if agent.identity not in self.gateway.agents:
                pass  # it has not come, and one that is late may take any time
            case "still node" | "reset node" | "full node" | "noisy node" | "cut node":
                if fault.seconds > 1.0:
                    self.suffers(agent)
                if fault.seconds > p.DEAD_MAN_SECONDS - 1.0:
                    self.gone_nodes.add(agent.node_rank)
                disturb(agent.wire, fault)
            case "noisy client" if not self.user.attached:
                pass  # a first word that is lost is not said again: the user is told, and tries once more
            case "still client" | "reset client" | "full client" | "noisy client":
                disturb(self.user.wire, fault)
            case "other client":
                self.enter()
            case "visitor":
                self.world.after(fault.seconds, self.go, self.enter())
            case "other runs":
                self.run_other(self.enter())
            case "cancel":
                waiting = [run for run in self.sent if run not in self.submitted and run not in self.ended]
                if waiting:
                    self.interrupt(waiting[-1], self.user)
            case "other interrupts":
                other = self.enter()
                self.world.after(0.2, self.interrupt, cell.run, other)
            case "new kernel":
                self.user.wire.cut()
                self.user.close("its kernel was killed")
                self.world.after(fault.seconds, self.come_back)
            case "stop":
                self.user.send(p.Stop("it was stopped"))
            case "full stop":
                self.user.wire.be_full(fault.seconds)
                self.user.send(p.Stop("it was stopped"))
            case "kill gateway":
                self.gateway_killed = True
                self.end_gateway()

    def replace(self, agent: Agent) -> None:
        """The zygote makes a new agent in the place of one that was killed."""
        if self.gateway_alive:
            self.nodes[agent.node_rank] = self.start_agent(agent.node_rank, agent.life + 1)

    def run_other(self, client: Client) -> None:
        """Another kernel runs a cell of its own."""
        steps = (Step("print"), *([Step("collective")] * self.schedule.grouped), Step("print"))
        programs = dict.fromkeys(range(self.schedule.world_size), steps)
        self.run(Cell(f"{client.name}'s", None, (programs,)), client)

    def go(self, client: Client) -> None:
        """A kernel lets go of the session, or dies."""
        if client.closed is None and client.wire is not None:
            if self.world.random.random() < 0.5:
                client.detach()
                client.close("it has let go of the session")
            else:
                client.wire.cut()
                client.close("its kernel was killed")

    def come_back(self) -> None:
        """Another kernel attaches to the session."""
        if not self.ending:
            self.user = self.enter()

    def ranks_of(self, node: int) -> range:
        """The ranks of a node."""
        per_node = self.schedule.ranks_per_node
        return range(node * per_node, (node + 1) * per_node)

    def suffers(self, agent: Agent) -> None:
        """A node is cut off or gone; what it had to say can be lost."""
        self.faulty_nodes.add(agent.node_rank)

    def lose(self, rank: int) -> None:
        """The process of a rank is killed, as by the system."""
        for agent in self.nodes:
            if rank in agent.places:
                agent.places[rank].rank.die("was killed by SIGKILL")


def disturb(wire: Wire, fault: Fault) -> None:
    """A connection suffers what the fault says."""
    match fault.kind.split()[0]:
        case "still":
            wire.stand_still(fault.seconds)
        case "full":
            wire.be_full(fault.seconds)
        case "noisy":
            wire.be_noisy(fault.seconds)
        case _:
            wire.reset(fault.seconds)


def _specification(schedule: Schedule, folder: str) -> GatewaySpec:
    return GatewaySpec(
        session=f"simulated-{schedule.seed}",
        host="127.0.0.1",
        public_key="",
        secret_key="",
        client_key="",
        node_key="",
        nodes=schedule.nodes,
        ranks_per_node=schedule.ranks_per_node,
        framework="torch" if schedule.grouped else "none",
        accelerated=False,
        i6pn=False,
        environment={},
        lease=schedule.lease,
        idle=schedule.idle,
        max_lifetime=schedule.max_lifetime,
        folder=folder,
        log_limit=10**9,
    )
