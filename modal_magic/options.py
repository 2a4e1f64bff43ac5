"""Every option once, as data: the magics' lines, Tab, config files, the environment, the Python API and the docs.

The fields of `Options` are the table. `python -m modal_magic.options` prints it as the docs show it.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modal_magic import values as v
from modal_magic.containers import Containers, option
from modal_magic.errors import UsageError
from modal_magic.reading import Option, format_line

__all__ = ["OPTIONS", "Options", "Shape", "differences", "docs_table", "resolve"]


WHOLE_HOST = 8
"""How many GPUs the hosts have that Modal makes clusters of."""
IDLE_ON_MODAL = 1800.0
"""What `--idle auto` means where an hour without a run costs money, in seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Containers):
    """What a cell asks for, every value parsed and within its bounds (`resolve` makes one).

    Raises UsageError when values contradict each other.
    """

    replicas: int = option(
        1, "nodes of the session; each is one container", v.whole("a session has 1 to 1024 nodes", 1, 1024), "shape",
        short="-n", metavar="N", example="4",
    )  # fmt: skip
    gpu: str | None = option(
        None, "GPUs of each node: a type, or a type and a count; `any` takes what is here", v.gpu, "shape",
        absent="none", metavar="TYPE[:COUNT]", example="A100", suggestions=v.GPU_TYPES,
    )  # fmt: skip
    nproc_per_node: int | None = option(
        None, "ranks on each node; `auto` is one for each GPU, or one", v.whole("a node has 1 to 64 ranks", 1, 64),
        "shape", absent="auto", metavar="N", example="8",
    )  # fmt: skip
    backend: str = option(
        "auto", "where nodes run; `auto` is Modal when there is a token, else this machine",
        v.choice("auto", "local", "modal"), "shape", metavar="BACKEND", example="local",
        choices=("auto", "local", "modal"),
    )  # fmt: skip
    session: str | None = option(
        None, "name of the session; without one, this notebook's own", v.name, "session", metavar="NAME",
        example="train-1",
    )  # fmt: skip
    ranks: tuple[int, ...] | None = option(
        None, "run the cell on these ranks only", v.ranks, "run", write=v.write_ranks, absent="all", metavar="RANKS",
        example="0,2-3", suggestions=("all",),
    )  # fmt: skip
    show: v.Show = option(  # noqa: RUF009 - ruff cannot see that what is behind the alias is immutable
        None, "show the output of these ranks, or of `all`", v.show, "run", write=v.write_ranks, absent="auto",
        metavar="RANKS", example="0,2-3", suggestions=("all", "auto"),
    )  # fmt: skip
    framework: str = option(
        "torch", "what is set up in each rank: torch.distributed, or nothing", v.choice("torch", "none"), "shape",
        metavar="FRAMEWORK", example="torch", choices=("torch", "none"),
    )  # fmt: skip
    env: tuple[tuple[str, str], ...] = option(
        (), "set a variable in the environment of each rank; may be given again", v.environment, "shape",
        metavar="NAME=VALUE", example="NCCL_DEBUG=INFO", repeatable=True,
        write=lambda pairs: " ".join(shlex.quote(f"{key}={value}") for key, value in pairs),
    )  # fmt: skip
    output_limit: int | None = option(
        10_000_000, "output that a run may put in the notebook; what is past it stays in the log; `off` lifts it",
        v.size, "run", write=v.write_size, nullable=True, absent="off", metavar="SIZE", example="10MB",
        suggestions=("off",),
    )  # fmt: skip
    restart: bool = option(
        False, "begin with fresh ranks: their variables are lost", v.switch, "session", switch=True, example="true",
        write=v.write_switch,
    )  # fmt: skip
    lease: float = option(
        1800.0, "how long the session lives with no kernel attached and no run in progress",
        v.limit("a lease", "30min"), "session", write=v.write_duration, metavar="TIME", example="30min",
    )  # fmt: skip
    idle: v.Idle = option(  # noqa: RUF009
        "auto", "end the session after this time without a run; `auto` is 30min on Modal and `off` on this machine",
        v.idle, "session", write=v.write_duration, nullable=True, absent="off", metavar="TIME", example="30min",
        suggestions=("auto", "off"),
    )  # fmt: skip
    max_lifetime: float | None = option(
        None, "end the session this long after its start, also during a run", v.limit("a life", "12h"), "session",
        write=v.write_duration, absent="off", metavar="TIME", example="12h", suggestions=("off",),
    )  # fmt: skip
    end_with_kernel: bool = option(
        False, "end the session when its kernel is shut down, but not when it is restarted", v.switch, "session",
        switch=True, example="true", write=v.write_switch,
    )  # fmt: skip
    background: bool = option(
        False, "do not wait for the run: the value of the cell is its handle", v.switch, "run", switch=True,
        example="true", write=v.write_switch,
    )  # fmt: skip
    handle: str | None = option(
        None, "the variable of the notebook that is given the run's handle", v.variable, "run", metavar="NAME",
        example="training",
    )  # fmt: skip
    timeout: float | None = option(
        None, "interrupt the run after this time", v.limit("a time limit", "1h"), "run", write=v.write_duration,
        absent="off", metavar="TIME", example="1h", suggestions=("off",),
    )  # fmt: skip
    retries: int = option(
        0, "run the cell again when ranks were lost, so many times; `modal_magic.attempt` counts from 1",
        v.whole("a run has 0 to 10 retries", 0, 10), "run", metavar="N", example="3",
    )  # fmt: skip
    retry_initial_delay: float = option(
        1.0, "how long the first retry waits", v.duration("the first retry waits 0 to 60s", 0.0, 60.0, "1s"), "run",
        write=v.write_duration, metavar="TIME", example="1s",
    )  # fmt: skip
    retry_backoff_coefficient: float = option(
        2.0, "by how much each retry waits longer than the one before; 1 is always as long",
        v.number("a coefficient is a number from 1 to 10", 1.0, 10.0), "run", metavar="NUMBER", example="2.0",
    )  # fmt: skip
    retry_max_delay: float = option(
        60.0, "how long a retry waits at most", v.duration("a retry waits at most 1s to 60s", 1.0, 60.0, "1min"),
        "run", write=v.write_duration, metavar="TIME", example="1min",
    )  # fmt: skip
    retry_on_error: bool = option(
        False, "run the cell again when it raised, too", v.switch, "run", switch=True, example="true",
        write=v.write_switch,
    )  # fmt: skip
    log_limit: int = option(
        1_000_000_000, "how much the log of the session holds on disk; past it the oldest goes", v.log_size, "session",
        write=v.write_size, metavar="SIZE", example="1GB",
    )  # fmt: skip

    link: str = option(
        "auto", "way to the gateway on Modal: a tunnel, or a queue where its port cannot be reached; `auto` tries both",
        v.choice("auto", "tunnel", "queue"), "session", metavar="LINK", example="queue",
        choices=("auto", "tunnel", "queue"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse more ranks than GPUs where the number of GPUs was spelled out, and what Modal would not do."""
        asked, counted = self.nproc_per_node, self.gpu is not None and ":" in self.gpu
        if asked is not None and counted and asked > self.gpu_count:
            raise UsageError(
                f"--nproc-per-node {asked} with --gpu {self.gpu}: each rank needs a GPU of its own and the node has "
                f"{self.gpu_count}; try --nproc-per-node {self.gpu_count}"
            )
        if self.nonpreemptible and self.gpu is not None:
            raise UsageError("--nonpreemptible is for nodes without GPUs: Modal may take away any container with one")
        if self.snapshot == "gpu" and self.gpu is None:
            raise UsageError("--snapshot gpu is for nodes with a GPU: --snapshot cpu is for all")
        if self.clustered and self.gpu_count != WHOLE_HOST:
            raise UsageError(
                f"--clustered is for nodes that are whole hosts, as with --gpu H100:{WHOLE_HOST}: without it, nodes of "
                "every shape reach each other"
            )
        if self.clustered and self.snapshot == "gpu":
            raise UsageError("--snapshot gpu cannot go with --clustered: nodes of a cluster start without a snapshot")
        if self.no_i6pn and (self.replicas > 1 or self.clustered):
            raise UsageError("--no-i6pn is for a session of one node: others reach each other over i6pn")
        if self.rdma and not self.clustered:
            raise UsageError("--rdma is for the nodes of a cluster: it goes with --clustered")

    @property
    def gpu_count(self) -> int:
        """GPUs of each node: 0 without `gpu`, 1 when it has no count."""
        return v.gpu_count(self.gpu)

    def idle_on(self, backend: str) -> float | None:
        """How many seconds a session of this backend may be without a run, None for any time."""
        if self.idle != "auto":
            return self.idle
        return IDLE_ON_MODAL if backend == "modal" else None

    def shape(self) -> Shape:
        """The shape of the session that these options ask for."""
        return Shape(
            replicas=self.replicas, gpu=self.gpu, nproc_per_node=self.nproc_per_node or self.gpu_count or 1,
            backend=self.backend, framework=self.framework, env=self.env,
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Containers)},
        )  # fmt: skip


OPTIONS: tuple[Option, ...] = tuple(
    dataclasses.replace(field.metadata["option"], name=field.name)
    for field in sorted(dataclasses.fields(Options), key=lambda field: field.name in Containers.__slots__)
)
"""The options of `%%modal_distributed`, in the order of the docs: those that only Modal needs are the last."""

# ---- what the values come to -----------------------------------------------------------------------------------------


def resolve(*layers: Mapping[str, object]) -> Options:
    """The options that parsed layers come to: later layers win, and `env` is merged variable by variable.

    Raises UsageError when values of different layers contradict each other.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        earlier = merged.get("env", ())
        merged |= layer
        if "env" in layer:
            merged["env"] = tuple(sorted({**dict(earlier), **dict(merged["env"])}.items()))
    return Options(**merged)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape(Containers):
    """What a session is made of, with nothing left open but `backend` auto; as text, the options that ask for it."""

    replicas: int
    nproc_per_node: int
    gpu: str | None = None
    backend: str = "auto"
    framework: str = "torch"
    env: tuple[tuple[str, str], ...] = ()

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return self.replicas * self.nproc_per_node

    @property
    def gpu_count(self) -> int:
        """GPUs of each node: 0 without `gpu`, 1 when it has no count."""
        return v.gpu_count(self.gpu)

    def __str__(self) -> str:
        defaults = {"nproc_per_node": 1, **{one.name: one.default for one in OPTIONS}, "replicas": None}
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["env"] = tuple((key, "…") for key, _ in self.env)  # values of variables may be secrets
        if self.nproc_per_node == max(self.gpu_count, 1):
            del values["nproc_per_node"]
        return format_line({name: value for name, value in values.items() if value != defaults[name]}, OPTIONS)


SHAPE_NAMES = tuple(field.name for field in dataclasses.fields(Shape))


def differences(given: Mapping[str, object], shape: Shape) -> tuple[str, ...]:
    """The names of the given (parsed) shape options that disagree with the shape of a session.

    What is not given agrees, and so do `backend` auto on either side, `nproc_per_node` auto and variables that the
    shape has too.
    """
    found: list[str] = []
    for name in SHAPE_NAMES:
        if name not in given or (wanted := given[name]) == (has := getattr(shape, name)):
            continue
        if name == "gpu":
            agrees = v.same_gpu(wanted if isinstance(wanted, str) else None, shape.gpu)
        elif name == "env":
            agrees = set(v.environment(wanted)) <= set(shape.env)
        else:
            agrees = "auto" in (wanted, has) if name == "backend" else wanted is None
        if not agrees:
            found.append(name)
    return tuple(found)


def docs_table() -> str:
    """The Markdown table of all options, which docs/options.md holds."""
    rows = ["| Option | Config key | Environment variable | Default | Meaning |", "| --- | --- | --- | --- | --- |"]
    for one in OPTIONS:
        flags = "/".join(one.flags) + ("" if one.switch else f" {one.metavar}")
        default = one.absent if one.default is None else one.write(one.default)
        rows.append(
            f"| `{flags}` | `{one.name}` | `{one.variable}` | {f'`{default}`' if default else 'none'} "
            f"| {one.help[0].upper()}{one.help[1:]} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(docs_table())
