"""What a process is told at its birth, and the words between a zygote and those that use it.

backend ──Take, StartGateway, StartAgent, Settled──▶ zygote ◀──Fork, End── agent
        ◀──Ready, GatewayUp, Unable───────         ──Exited────▶
                                                   ──Introduced─▶ gateway
"""

from __future__ import annotations

import msgspec

from modal_magic.protocol import Message, Part, Place, Stage, Store

# ---- specifications: made by a backend, never by a peer ----------------------------------------------------------


class GatewaySpec(Part):
    """All that a gateway must know. Keys are Z85; times are in seconds, `log_limit` is in bytes.

    Clients are served on `client_host`, where it is another address than that for nodes. Nodes that have not come after
    `patience` (None: they may take as long as they like) end the session. `stages` are those of the session's start so
    far: what goes on ends when the gateway, or the node that it is of, is up.
    """

    session: str
    host: str
    public_key: str
    secret_key: str
    client_key: str
    node_key: str
    nodes: int
    ranks_per_node: int
    framework: str
    accelerated: bool
    i6pn: bool
    environment: dict[str, str]
    lease: float
    folder: str
    log_limit: int
    idle: float | None = None
    max_lifetime: float | None = None
    client_host: str = ""
    patience: float | None = None
    stages: list[Stage] = msgspec.field(default_factory=list)


class AgentSpec(Part):
    """All that an agent must know. `address` is its node's; GPUs from `first_accelerator` on are the node's own.

    `predecessor` says how the agent ended that this one takes the place of; `notice` is what the one who started this
    one has to say to the user, and `stages` how long the node took to be up.
    """

    session: str
    node_rank: int
    gateway_host: str
    gateway_port: int
    gateway_key: str
    public_key: str
    secret_key: str
    address: str
    framework: str
    cores: int
    first_accelerator: int
    predecessor: str = ""
    notice: str = ""
    stages: list[Stage] = msgspec.field(default_factory=list)


class WorkerSpec(Part):
    """All that a worker must know."""

    session: str
    place: Place
    generation: int
    store: Store | None
    framework: str


# ---- backend → zygote --------------------------------------------------------------------------------------------


class Take(Message):
    """You belong to a session now: take on the kernel's working directory, import path and environment."""

    folder: str
    directory: str
    path: list[str]
    environment: dict[str, str]


class StartGateway(Message):
    """Fork the gateway of the session."""

    spec: GatewaySpec


class StartAgent(Message):
    """Fork the agent of a node."""

    spec: AgentSpec


class Settled(Message):
    """The session has all that it needs: it goes on without its backend. Before that word it ends with it."""


class Ping(Message):
    """Say that you are there: you may have been restored from a snapshot."""


class EndNode(Message):
    """Have your agents leave, and end what has not left soon: `grace` is in seconds, where the node is preempted."""

    reason: str
    grace: float = 0.0


BackendWord = Take | StartGateway | StartAgent | Settled | Ping | EndNode


# ---- zygote → backend --------------------------------------------------------------------------------------------


class Ready(Message):
    """The zygote has imported what it was asked to. `missing` are modules that are not installed here."""

    pid: int
    seconds: float
    missing: list[str]


class GatewayUp(Message):
    """The gateway can be reached."""

    pid: int
    client_port: int
    node_port: int


class Unable(Message):
    """What was asked for could not be done."""

    reason: str


class Here(Message):
    """The answer to Ping."""


ZygoteWord = Ready | GatewayUp | Unable | Here


# ---- zygote → gateway --------------------------------------------------------------------------------------------


class Introduced(Message):
    """The agent of this node is made here too: the descriptor that travels along is the end of a line to it."""

    node_rank: int


# ---- agent ⇄ zygote ----------------------------------------------------------------------------------------------


class Fork(Message):
    """Fork a worker. Four descriptors travel with it: control, lifeline, stdout, stderr."""

    spec: WorkerSpec


class End(Message):
    """Kill the process of a rank with all that it started."""

    rank: int


class Forked(Message):
    """The worker of a rank has this process id. `warning` says why it was spawned where it could not be forked."""

    rank: int
    pid: int
    warning: str


class Exited(Message):
    """The worker of a rank is gone. `status` is that of waitpid."""

    rank: int
    pid: int
    status: int


class Leave(Message):
    """The session is over for this node. `grace` is the time to save what there is, in seconds; 0: there is none."""

    reason: str
    grace: float = 0.0


AgentWord = Fork | End
ZygoteToAgent = Forked | Exited | Leave

decode_backend_word = msgspec.msgpack.Decoder(BackendWord).decode
decode_zygote_word = msgspec.msgpack.Decoder(ZygoteWord).decode
decode_agent_word = msgspec.msgpack.Decoder(AgentWord).decode
decode_introduced = msgspec.msgpack.Decoder(Introduced).decode
decode_zygote_to_agent = msgspec.msgpack.Decoder(ZygoteToAgent).decode
