"""One simulated session: the real gateway between models of clients and nodes, and what befalls them."""

from __future__ import annotations

from modal_magic import protocol as p
from modal_magic.gateway import Gateway
from modal_magic.specs import GatewaySpec
from modal_magic.state import SessionState
from tests.simulation.agents import Agent
from tests.simulation.clients import Client
from tests.simulation.ranks import Keeper, Program
from tests.simulation.schedule import Cell, Fault, Schedule
from tests.simulation.world import Wire, World

__all__ = ["Simulation"]

PATIENCE_SECONDS = 4.0
"""After so long somebody presses the stop button."""
BEAT = (p.encode(p.Beat()),)


class _Door:
    """A door of the gateway."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.wires: dict[bytes, Wire] = {}

    def send(self, identity: bytes, *frames: bytes) -> bool:
        """See `Door`."""
        wire = self.wires.get(identity)
        if wire is None or wire.gone or not wire.connected:
            return False
        if frames != BEAT:  # beats are heard at once: see `tick`
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
        self.programs: dict[str, dict[int, Program]] = {}
        size = schedule.world_size
        self.keeper = Keeper(world, size) if schedule.grouped else None
        self.client_door, self.node_door = _Door(world), _Door(world)
        self.gateway_alive = True
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
        self.ended: dict[str, tuple[float, p.RunEnded]] = {}
        self.wakes = float("inf")
        self.leasing_since: float | None = 0.0
        self.agents = [Agent(world, number, self.keeper, self.programs) for number in range(schedule.nodes)]
        self.clients: list[Client] = []
        self.sent: dict[str, tuple[float, Client]] = {}
        self.taken: set[str] = set()
        self.interrupted: dict[str, float] = {}
        self.restarts: list[tuple[Client, str]] = []
        self.faulty_nodes: set[int] = set()
        self.to_come = 0
        self.ending = False
        for agent in self.agents:
            agent.wire = self._connect(agent.name, agent.identity, self.node_door, agent.take)
            world.after(world.between(1e-3, 0.05), agent.join)
        self.user = self.enter()
        self.tick()
        self.wake()

    # -- connections

    def _connect(self, name: str, identity: bytes, door: _Door, take: object) -> Wire:
        receive = self.gateway.from_node if door is self.node_door else self.gateway.from_client

        def to_gateway(frames: list[bytes]) -> None:
            if self.gateway_alive:
                if receive == self.gateway.from_client:
                    self.note_request(identity, frames)
                receive(identity, frames)
                self.turn()

        wire = door.wires[identity] = Wire(self.world, name, to_gateway, take, self.schedule.slowest)  # type: ignore[arg-type]
        return wire

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
        self.watch_lease()
        due = self.gateway.due()
        if due < self.wakes:
            self.wakes = due
            self.world.after(max(0.0, due - self.world.now), self.wake)

    def wake(self) -> None:
        """Something is due in the gateway."""
        self.wakes = float("inf")
        self.turn()

    def end_gateway(self) -> None:
        """The gateway's process is gone; its zygote tells the agents."""
        self.gateway_alive = False
        self.world.note("gateway", "is gone")
        for agent in self.agents:
            self.world.after(0.01, agent.leave, "its gateway is gone")

    def watch_lease(self) -> None:
        """Since when nobody is attached and nothing runs."""
        machine = self.gateway.machine
        if machine.state in (SessionState.CLOSING, SessionState.CLOSED):
            return
        if self.gateway.clients or machine.active is not None or machine.queue.runs:
            self.leasing_since = None
        elif self.leasing_since is None:
            self.leasing_since = self.world.now

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
        self.world.note("gateway", f"≡ {event}")
        self.logged.append((self.world.now, event))
        if isinstance(event, p.Submitted):
            self.submitted[event.run] = self.world.now
        elif isinstance(event, p.RunEnded):
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
        self.programs[cell.run] = dict(cell.programs)
        self.sent[cell.run] = (self.world.now, client)
        client.run(p.Execute(cell.run, "cell", 1, 1), None if cell.ranks is None else list(cell.ranks))
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
        agent = self.agents[fault.target % len(self.agents)]
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
            case "kill agent" if agent.identity in self.gateway.agents:
                self.suffers(agent)
                agent.die()
            case "still node":
                if fault.seconds > 1.0:
                    self.suffers(agent)
                agent.wire.stand_still(fault.seconds)
            case "reset node":
                if fault.seconds > 1.0:
                    self.suffers(agent)
                agent.wire.reset(fault.seconds)
            case "still client":
                self.user.wire.stand_still(fault.seconds)
            case "reset client":
                self.user.wire.reset(fault.seconds)
            case "other client":
                self.enter()
            case "other interrupts":
                other = self.enter()
                self.world.after(0.2, self.interrupt, cell.run, other)
            case "new kernel":
                self.user.wire.cut()
                self.user.close("its kernel was killed")
                self.world.after(fault.seconds, self.come_back)
            case "stop":
                self.user.send(p.Stop("it was stopped"))
            case "kill gateway":
                self.end_gateway()

    def come_back(self) -> None:
        """Another kernel attaches to the session."""
        if not self.ending:
            self.user = self.enter()

    def suffers(self, agent: Agent) -> None:
        """A node is cut off or gone; what it had to say can be lost."""
        self.faulty_nodes.add(agent.node_rank)

    def lose(self, rank: int) -> None:
        """The process of a rank is killed, as by the system."""
        for agent in self.agents:
            if rank in agent.places:
                agent.places[rank].rank.die("was killed by SIGKILL")


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
        folder=folder,
    )
