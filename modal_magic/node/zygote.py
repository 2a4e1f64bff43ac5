"""The zygote: a process with one thread and torch preimported, from which gateway, agents and workers are forked.

Its rules (a forked child hangs without a word where they are broken): no thread, no OpenMP or CUDA work, no zmq socket,
no user code, no faulthandler timer. They are checked before each fork; where they do not hold, the process is spawned
instead, which costs seconds, and the message says so. A zygote reaps what it forked, for only a parent learns the
signal that ended a child, and it ends what an ended worker has left behind.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from modal_magic.links.framing import frame, split
from modal_magic.node import orphans
from modal_magic.node.birth import bear
from modal_magic.node.channel import Channel
from modal_magic.node.preimports import preimport
from modal_magic.node.rank_process import LINES, cause_of_death
from modal_magic.protocol import Message
from modal_magic.specs import (
    AgentSpec,
    BackendWord,
    End,
    EndNode,
    Exited,
    Fork,
    Forked,
    Here,
    Introduced,
    Leave,
    Ping,
    Ready,
    Settled,
    StartAgent,
    StartGateway,
    Take,
    Unable,
    decode_agent_word,
    decode_backend_word,
    decode_zygote_word,
)

LINGER_SECONDS = 5.0
"""How long agents have to leave after their gateway is gone."""
LAST_BYTES = 2000
"""So much of the log is looked at for its last line."""
AGENTS_REPLACED, REPLACED_SECONDS = 10, 60.0
"""So many agents are replaced in so long a time: one that dies again and again is of no use."""


@dataclass(slots=True)
class Child:
    """A process that was forked here: what it is, whose agent hears of a worker, and what an agent was told."""

    kind: str
    agent: Channel | None = None
    rank: int = -1
    spec: AgentSpec | None = None


@dataclass(slots=True)
class Zygote:
    """What the zygote knows while it serves."""

    backend_in: int
    backend_out: int
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    children: dict[int, Child] = field(default_factory=dict)
    agents: list[Channel] = field(default_factory=list)
    gateway: socket.socket | None = None
    buffer: bytearray = field(default_factory=bytearray)
    folder: Path | None = None
    deadline: float | None = None
    settled: bool = False
    agents_replaced: list[float] = field(default_factory=list)
    session_over: bool = False

    def leave(self) -> None:
        """Let go of what is the zygote's, in a process that was forked from it."""
        self.selector.close()
        for agent in self.agents:
            agent.socket.detach()
        if self.gateway is not None:
            self.gateway.detach()


def main() -> None:
    """Preimport, say Ready on stdout, then serve stdin and whatever is forked until nothing is left to serve."""
    began = time.monotonic()
    backend_in, backend_out = os.dup(0), os.dup(1)
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(devnull, 0)
    os.dup2(2, 1)
    os.close(devnull)
    missing = preimport(sys.argv[1:])
    orphans.adopt()
    zygote = Zygote(backend_in, backend_out)
    tell_backend(zygote, Ready(os.getpid(), time.monotonic() - began, missing))
    serve(zygote)


def serve(zygote: Zygote) -> None:
    """The loop: one thread, one selector."""
    alarm_out, alarm_in = os.pipe()
    os.set_blocking(alarm_in, False)
    os.set_blocking(alarm_out, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(alarm_in, warn_on_full_buffer=False)
    zygote.selector.register(zygote.backend_in, selectors.EVENT_READ, lambda: from_backend(zygote))
    zygote.selector.register(alarm_out, selectors.EVENT_READ, lambda: reap(zygote, alarm_out))
    while not (zygote.session_over and not zygote.children):
        patience = None if zygote.deadline is None else max(0.0, zygote.deadline - time.monotonic())
        for key, _ in zygote.selector.select(patience):
            key.data()
        if zygote.deadline is not None and time.monotonic() >= zygote.deadline:
            zygote.deadline = None
            for pid in list(zygote.children):
                orphans.kill_process(pid)
    orphans.kill_strays(set())


# ---- the backend -----------------------------------------------------------------------------------------------------


def tell_backend(zygote: Zygote, message: Message) -> None:
    """Write to the backend; that it is gone shows at the next read."""
    with contextlib.suppress(OSError):
        os.write(zygote.backend_out, frame(message))


def last_words() -> str:
    """The last line that was written to stderr here, which is a log; also when its file is gone with the session."""
    with contextlib.suppress(OSError):
        log = os.pread(2, LAST_BYTES, max(0, os.fstat(2).st_size - LAST_BYTES))
        return log.decode(errors="replace").rstrip().rpartition("\n")[2]
    return "nobody knows why"


def from_backend(zygote: Zygote) -> None:
    """Take what the backend has written. At its end, what is not settled ends too: nobody could reach it."""
    data = os.read(zygote.backend_in, 1 << 16)
    if not data:
        zygote.selector.unregister(zygote.backend_in)
        if not zygote.settled:
            zygote.session_over = True
            for pid in list(zygote.children):
                orphans.kill_process(pid)
        return
    zygote.buffer += data
    for word in split(zygote.buffer):
        obey_backend(zygote, decode_backend_word(word))


def obey_backend(zygote: Zygote, word: BackendWord) -> None:
    """Do what the backend asked for."""
    match word:
        case Take(folder=folder, directory=directory, path=path, environment=environment):
            zygote.folder = Path(folder)
            log = os.open(zygote.folder / "zygote.log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            os.environ.clear()
            os.environ.update(environment)
            sys.path[:] = path
            try:
                os.chdir(directory)
            except OSError as error:
                tell_backend(zygote, Unable(f"the working directory {directory} cannot be entered: {error.strerror}"))
        case StartGateway(spec=spec):
            outgoing, incoming = os.pipe()
            zygote.gateway, theirs = socket.socketpair()
            pid, _ = bear("gateway", spec, [incoming, theirs.fileno()], zygote.leave)
            os.close(incoming)
            theirs.close()
            zygote.children[pid] = Child("gateway")

            def announced() -> None:
                data = os.read(outgoing, 4096)
                zygote.selector.unregister(outgoing)
                os.close(outgoing)
                unable = Unable(f"the gateway did not start: {last_words()}")
                tell_backend(zygote, decode_zygote_word(data) if data else unable)

            zygote.selector.register(outgoing, selectors.EVENT_READ, announced)
        case Ping():
            tell_backend(zygote, Here())
        case EndNode(reason=reason, grace=grace):
            end_node(zygote, reason, grace)
        case StartAgent(spec=spec):
            start_agent(zygote, spec)
        case Settled():
            zygote.settled = True


# ---- agents ----------------------------------------------------------------------------------------------------------


def start_agent(zygote: Zygote, spec: AgentSpec) -> None:
    """Fork the agent of a node. To a gateway that was made here too it is given a line, with no network between."""
    ours, theirs = socket.socketpair()
    lines = [theirs, *introduce(zygote, spec.node_rank)]
    pid, _ = bear("agent", spec, [line.fileno() for line in lines], zygote.leave)
    for line in lines:
        line.close()
    channel = Channel(ours)
    zygote.agents.append(channel)
    zygote.children[pid] = Child("agent", channel, spec=spec)
    zygote.selector.register(ours, selectors.EVENT_READ, lambda: from_agent(zygote, channel))


def introduce(zygote: Zygote, node_rank: int) -> list[socket.socket]:
    """Give the gateway its end of a line to an agent that is to be made; the agent's own is returned, if there is one.

    A gateway that is gone does not mind.
    """
    if zygote.gateway is None:
        return []
    here, there = socket.socketpair()
    with here, contextlib.suppress(OSError):
        socket.send_fds(zygote.gateway, [frame(Introduced(node_rank))], [here.fileno()])
    return [there]


def from_agent(zygote: Zygote, agent: Channel) -> None:
    """Take what an agent has asked for, with the descriptors that travel along."""
    if agent not in zygote.agents:  # forgotten a moment ago, in the same turn of the loop
        return
    words = agent.receive_with_descriptors()
    if words is None:
        forget_agent(zygote, agent)
        return
    for packed in words:
        word = decode_agent_word(packed)
        if isinstance(word, Fork):
            chosen, agent.descriptors = agent.descriptors[:LINES], agent.descriptors[LINES:]
            pid, warning = bear("worker", word.spec, chosen, zygote.leave)
            for descriptor in chosen:
                os.close(descriptor)
            rank = word.spec.place.rank
            zygote.children[pid] = Child("worker", agent, rank)
            tell_agent(agent, Forked(rank, pid, warning))
        elif isinstance(word, End):
            for pid, child in zygote.children.items():
                if child.agent is agent and child.kind == "worker" and child.rank == word.rank:
                    orphans.kill_process(pid)


def tell_agent(agent: Channel, message: Message) -> None:
    """Send a word to an agent; one that is gone does not mind."""
    with contextlib.suppress(OSError):
        agent.send(message)


def forget_agent(zygote: Zygote, agent: Channel) -> None:
    """An agent is gone: its workers end with it."""
    if agent in zygote.agents:
        zygote.agents.remove(agent)
        zygote.selector.unregister(agent.socket)
        agent.close()
    for pid, child in zygote.children.items():
        if child.kind == "worker" and child.agent is agent:
            orphans.kill_process(pid)


# ---- death -----------------------------------------------------------------------------------------------------------


def reap(zygote: Zygote, alarm: int) -> None:
    """Learn who has ended and how, tell who must know, and end what they have left behind."""
    try:
        while os.read(alarm, 512):
            pass
    except BlockingIOError:
        pass
    known = False
    for pid, status in ended_children():
        child = zygote.children.pop(pid, None)
        if child is None:  # one that came here when its parent ended
            continue
        known = True
        if child.kind == "worker" and child.agent is not None:
            orphans.kill_group(pid)
            tell_agent(child.agent, Exited(child.rank, pid, status))
        elif child.kind == "agent" and child.agent is not None:
            forget_agent(zygote, child.agent)
            if status and child.spec is not None and not zygote.session_over:
                replace_agent(zygote, child.spec, status)
        elif child.kind == "gateway":
            gateway_ended(zygote, status)
    if known:
        orphans.kill_strays(set(zygote.children))
        zygote.session_over = zygote.session_over or not zygote.children


def replace_agent(zygote: Zygote, spec: AgentSpec, status: int) -> None:
    """An agent has died, and its workers with it: a new one takes its place, and says what became of it."""
    now = time.monotonic()
    zygote.agents_replaced = [when for when in zygote.agents_replaced if now - when < REPLACED_SECONDS]
    if len(zygote.agents_replaced) < AGENTS_REPLACED:
        zygote.agents_replaced.append(now)
        start_agent(zygote, msgspec.structs.replace(spec, predecessor=cause_of_death(status), notice="", stages=[]))


def ended_children() -> list[tuple[int, int]]:
    """The children that have ended since the last look, each with its wait status."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended.append((pid, status))


def end_node(zygote: Zygote, reason: str, grace: float = 0.0) -> None:
    """Have all that is here leave, and end what has not left when the time is over."""
    zygote.session_over = True
    zygote.deadline = time.monotonic() + LINGER_SECONDS + grace
    for agent in zygote.agents:
        tell_agent(agent, Leave(reason, grace))


def is_ours(folder: Path) -> bool:
    """Whether a folder is that of our session still: a new session may have its name as soon as the gateway is gone."""
    try:
        return os.path.samestat(os.fstat(2), (folder / "zygote.log").stat())
    except OSError:
        return False


def gateway_ended(zygote: Zygote, status: int) -> None:
    """The session is over. What a gateway that died could not tidy is tidied here; its log stays to be read."""
    end_node(zygote, "its gateway is gone")
    if zygote.folder is None or not is_ours(zygote.folder):
        return
    if status == 0 or not zygote.settled:
        shutil.rmtree(zygote.folder, ignore_errors=True)
    else:
        (zygote.folder / "connection.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
