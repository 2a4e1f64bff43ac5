"""The client's handle on a session and its runs: start, attach, run, ask, stop. The magics are a thin layer over it."""

from __future__ import annotations

import contextlib
import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from modal_magic import config, registry
from modal_magic import protocol as p
from modal_magic.errors import GatewayBusy, GatewayLost, SessionClosed, SessionError, UsageError
from modal_magic.lines import Line, newest_lines, read_lines
from modal_magic.links.client import Client
from modal_magic.options import OPTIONS, Options, resolve
from modal_magic.prices import Cost, Rates, cost_of, rates_on
from modal_magic.reading import parse_values
from modal_magic.sessions.answers import Answer, Answers
from modal_magic.sessions.checking import check_limits, check_lives, check_ranks, check_source, numbers_of
from modal_magic.sessions.planning import connection_of, plan_of, shape_of
from modal_magic.sessions.resources import Resources, choose_backend
from modal_magic.sessions.run import Run
from modal_magic.sessions.runs import SessionRuns
from modal_magic.sessions.transcript import RunLog, asked
from modal_magic.view.money import cost_line
from modal_magic.view.startup import startup_line
from modal_magic.waits import waited

__all__ = ["Session"]

TOP_FRAMES = 3
"""How many frames of a rank are told where nobody asks for more."""


class Session:
    """A named set of ranks that stays up between cells.

        with modal_magic.Session(replicas=4) as session:
            run = session.run("print(rank)").wait()
            run.ranks[2].output

    Keyword arguments are the options of `%%modal_distributed` under their config names. Leaving the `with` block ends
    the session; without one it lives until `stop`, or until its lease is over.

    Raises UsageError for options that make no sense and SessionError when the session cannot be started.
    """

    def __init__(self, *, resources: Resources | None = None, **options: Any) -> None:
        given = parse_values(options, OPTIONS, "Session")
        layers = config.outer_layers()
        self._begin(resources, resolve(*layers, given), "")

    @classmethod
    def start(cls, resources: Resources, options: Options, notebook: str) -> Self:
        """A new session of options that are resolved already; `notebook` is the file that wants it, or empty."""
        session = cls.__new__(cls)
        session._begin(resources, options, notebook)
        return session

    @classmethod
    def attach(cls, name: str, resources: Resources | None = None, watches: bool = False) -> Self:
        """The session of this name, which another kernel may have started.

        A client that only `watches` does not count as a kernel: the lease of the session runs on.

        Raises UsageError when there is none, SessionError when its connection file is not to be trusted, GatewayBusy
        when its gateway does not answer, and GatewayLost when its process is known to be gone; what is left of it is
        then removed, unless that has a log.
        """
        session = cls.__new__(cls)
        session._set_up(resources)
        try:
            connection = session._rejoin(registry.read(name))
        except BaseException:
            session._close_resources()
            raise
        session._connect(connection, watches)
        return session

    # -- what users do

    def run(
        self,
        source: str,
        *,
        ranks: Sequence[int] | None = None,
        output_limit: int | None = Options().output_limit,
        timeout: float | None = None,
        retries: int | p.Retries = 0,
        cell: int = 0,
        first_line: int = 1,
    ) -> Run:
        """Run the text of a cell on these ranks (None: all). Returns at once; `wait` waits.

        `output_limit` is in bytes of text over all ranks; what is past it stays in the session's log. The run is
        interrupted `timeout` seconds after it began, and tried again by `retries` when ranks were lost. `cell` and
        `first_line` make tracebacks speak of `In[cell]` and of the notebook's lines.

        Raises UsageError for a cell that cannot be sent; nothing has happened then.
        """
        self.check_open()
        check_source(source)
        chosen = numbers_of(ranks)
        check_ranks(chosen, self.world_size)
        again = p.Retries(retries) if isinstance(retries, int) else retries
        limits = check_limits(timeout, output_limit, again)
        run = Run(self, secrets.token_hex(6))
        task = p.Execute(run.id, source, cell, first_line)
        self._runs.begin(run)
        try:
            self._client.ask(
                p.Run(task, chosen, limits.output_limit, limits.timeout, again if again.max_retries else None)
            )
        except BaseException as error:
            self._runs.forget(run)
            if not isinstance(error, UsageError):  # an interrupt: it may be on its way, and nobody has its handle
                self._client.ask(p.InterruptRun(run.id))
            raise
        if self._error is not None:  # it ended since it was looked at: who waits for its runs was told before this one
            self._runs.give_up(self._error)
        elif self._client.silent:
            self._tell_silence(run)
        return run

    def unseen(self) -> list[Run]:
        """The runs of others, oldest first, that went on when this client attached, or whose end nobody had shown.

        Of their output they have what no other client had shown. One whose end was taken here is no longer among them.
        """
        return [run for run in self._runs.found if not run.was_taken]

    @property
    def stages(self) -> list[p.Stage]:
        """What the start of the session has spent its time on, in the order in which these stages began."""
        return sorted(self._stages.values(), key=lambda stage: stage.began)

    @property
    def cost(self) -> Cost | None:
        """What the session costs and has cost, None where that is not known or nothing: on this machine."""
        return None if self._rates is None else cost_of(self._rates, self.stages, self.now())

    @property
    def idle(self) -> bool:
        """Whether no run of this client goes on."""
        return not any(self._runs)

    def ready(self, seconds: float = 120.0) -> Self:
        """Wait until the ranks are up, and return the session.

        Raises SessionError when they are not, after `seconds`.
        """
        waited(self._up, seconds)
        self.check_open()
        if not self._up.is_set():
            raise SessionError(f"the ranks of session {self.name!r} are not up after {seconds:g} s: {self.state}")
        return self

    def status(self) -> p.Status:
        """How the session is. Raises GatewayBusy where its gateway does not answer, SessionGone where it has ended."""
        return self._ask(p.AskStatus, p.Status)

    def logs(self, ranks: Sequence[int] | None = None, last: int | None = None, run: str | None = None) -> list[Line]:
        """What ranks put out in a run (None: in the last one), also past `output_limit`: rank, kind, text of each line.

        `last` is how many lines of each rank are wanted. The kinds are stdout, stderr, display, result and error.
        """
        lines = read_lines(self.log(ranks, run))
        return list(lines) if last is None else newest_lines(lines, last)[0]

    def log(self, ranks: Sequence[int] | None = None, run: str | None = None) -> RunLog:
        """The log of a run (None: of the last one) on these ranks (None: all), fetched while it is read."""
        wanted = numbers_of(ranks)
        return asked(lambda name, after: self._ask(p.AskLog, p.LogPage, name, wanted, after), run)

    def interrupt(self) -> str | None:
        """Have the ranks leave the run in progress, whoever began it. Returns its id, None where there is none."""
        run = self.status().run
        if run is not None:
            self._client.ask(p.InterruptRun(run))
        return run

    def stacks(self, depth: int = TOP_FRAMES) -> list[p.RankStack]:
        """Where every rank is right now, with so many of its innermost frames. Any thread may ask, at any time.

        Takes 0.2 s at most, also where a rank does not answer: then `silent` says why. Raises what `status` raises.
        """
        return self._ask(p.AskStack, p.Stacks, depth).ranks

    def restart(self, ranks: Sequence[int] | None = None) -> None:
        """Start these ranks anew (None: all), without variables, and wait until they are ready."""
        self._ask(p.Restart, p.Done, numbers_of(ranks))

    def set_limits(self, **limits: float | str | None) -> None:
        """Have the session live so long from now on: `lease`, `idle` and `max_lifetime` as the options of these names.

        Numbers are seconds; None is for any time, and those that are not named stay. Raises UsageError for what makes
        no sense, and where the session is older than its longest life would be.
        """
        self._ask(p.SetLimits, p.Done, check_lives(limits, self.backend_name))

    def end(self, reason: str) -> None:
        """Tell the session to end, and do not wait for it; `reason` is a clause for those who use it still."""
        self.check_open()
        self._client.ask(p.Stop(reason))

    def stop(self, seconds: float = 10.0) -> None:
        """End the session and wait until nothing is left of it, nor of one whose gateway is gone.

        Raises SessionError if `seconds` are not enough; a GatewayBusy where the gateway is on another machine and did
        not say that it heard.
        """
        answers = self.closed or bool(self.connection.born)
        if not self.closed:
            with contextlib.suppress(SessionError):
                self.end("it was stopped")
                waited(self._ended, seconds)
                answers = answers or isinstance(self._error, SessionClosed)
        self._shut(SessionClosed(f"session {self.name!r} was stopped"))
        if isinstance(self._error, GatewayLost):  # its log, which would be waited for: nobody else removes it now
            registry.forget(self.name)
        meeting = self.connection.meeting
        if self._own_resources or meeting or self._resources.has_used(self.backend_name):
            self._finish(seconds, answers)
        self._close_resources()
        if meeting and not answers:  # what runs it is known to be gone all the same
            registry.forget(self.name)
            return
        if not answers:
            raise GatewayBusy(f"{self._client.silence()}: it has not said that it ends")

    def _finish(self, seconds: float, answers: bool) -> None:
        """See that nothing is left where the session ran; `answers` is whether its gateway has heard of the end."""
        backend = self._resources.backend(self.backend_name)
        try:
            ended = backend.finish(self.name, seconds, self.connection.meeting)
        except SessionError as error:
            self._close_resources()
            if answers:
                raise SessionError(f"session {self.name!r} is stopped, but {error}") from error
            raise SessionError(
                f"{self._client.silence()}: it has not said that it ends, and {error}. Once it can be reached, "
                f"%modal_stop {self.name} ends it"
            ) from error
        if not ended:
            raise SessionError(f"session {self.name!r} did not end within {seconds:g} s")

    def detach(self, why: str = "") -> None:
        """Leave the session running and let go of it. Its lease begins when nobody is attached and no run goes on.

        `why` is told to those who wait for a run of it.
        """
        told = f"this kernel has let go of session {self.name!r}{', ' if why else ''}{why}: %modal_attach {self.name}"
        self._shut(SessionClosed(told), p.Detach())
        self._close_resources()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.world_size} ranks, {self.backend_name}"
        return f"<modal_magic session {self.name!r}: {state}>"

    # -- beginnings

    def _begin(self, resources: Resources | None, options: Options, notebook: str) -> None:
        self._set_up(resources)
        self.backend_name = choose_backend(options.backend)
        backend = self._resources.backend(self.backend_name)
        name = registry.claim(options.session)
        try:
            plan = plan_of(name, options, self.backend_name)
            reached = backend.start(plan)
            connection = connection_of(plan, self.backend_name, reached, notebook)
            try:
                registry.publish(connection)
            except BaseException:  # what nobody could reach is not left running
                with contextlib.suppress(SessionError):
                    self._connect(connection)
                    self.stop()
                raise
        except BaseException:  # also an interrupt just as all was up
            backend.finish(name, 0.0)
            registry.forget(name)
            self._close_resources()
            raise
        try:
            self._connect(connection)
        except BaseException:
            backend.finish(name, 0.0)
            if not connection.born:  # that has ended it; one on this machine is still there to be attached to
                registry.forget(name)
            raise
        if reached.notice:
            self._notify(reached.notice)

    def _set_up(self, resources: Resources | None) -> None:
        self._own_resources = resources is None
        self._resources = resources or Resources()
        self._runs = SessionRuns()
        self._answers = Answers()
        self._ended = threading.Event()
        self._up = threading.Event()
        self._stages: dict[tuple[str, int], p.Stage] = {}
        self._rates: Rates | None = None
        self._error: SessionError | None = None
        self.state = "launching"
        self.notices: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.alert: Callable[[str], bool] = lambda text: False

    def _connect(self, connection: registry.Connection, watches: bool = False) -> None:
        self.connection = connection
        self.name = connection.session
        self.backend_name = connection.backend
        self.world_size = connection.nodes * connection.ranks_per_node
        self.shape = shape_of(connection)
        try:
            self._rates = rates_on(connection.backend, connection.gpu, connection.containers)
        except UsageError as error:  # prices are no reason to be without the session
            self._notify(str(error))
        self._client = Client(
            self._resources.links,
            connection,
            self._on_record,
            self._on_reply,
            self._on_silence,
            self._shut,
            watches,
            self._runs.taken,
        )
        try:
            self._client.attach()
            if self._runs.found:
                with contextlib.suppress(GatewayBusy):  # there may be much to be told
                    self.status()  # its answer comes behind what these runs were up to now
        except BaseException as error:
            gone = error if isinstance(error, SessionError) else SessionClosed(f"{self.name!r} was not waited for")
            self._shut(gone, p.Detach())
            self._close_resources()
            if isinstance(error, GatewayLost) and not registry.has_left_log(self.name):
                registry.forget(self.name)
            raise

    # -- the client; `_on_…` are called in the thread of the links

    @property
    def closed(self) -> bool:
        """Whether the session is gone, or this kernel has let go of it."""
        return self._error is not None

    def check_open(self) -> None:
        """Raise why the session cannot be used any more, if so."""
        if self._error is not None:
            raise self._error

    def interrupt_run(self, run: Run) -> None:
        """Have all ranks leave a run. Where the gateway does not answer the run is let go of here.

        A signal handler may call this, so it takes no lock that its own thread may hold: the loop's thread does it.
        """
        self.check_open()
        self._client.ask(p.InterruptRun(run.id))
        if self._client.silent:
            self._client.later(lambda: self._let_go(run))

    def tell_shown(self, shown: p.Shown) -> None:
        """Say how much of a run was shown, for those who come later."""
        if not self.closed:
            self._client.mention(shown)

    def _ask(self, make: Callable[..., p.Numbered], expected: type[Answer], *rest: Any) -> Answer:
        self.check_open()
        return self._answers.ask(self._client, make, expected, *rest)

    def _let_go(self, run: Run) -> None:
        told = f"{self._client.silence()}. The run will be interrupted once it does; until then "
        self._runs.let_go(run, GatewayBusy(f"{told}%modal_attach {self.name} can bring it back"))

    def _on_reply(self, reply: p.Reply) -> None:
        match reply:
            case p.Attached():
                self._take_state(reply.state)
                self._stages = {(stage.name, stage.node): stage for stage in reply.stages}
                for known in reply.runs:
                    self._runs.find(Run(self, known.run), known)
            case p.Live(events=events):
                self._runs.take_live(events)
            case p.Refused(request=request, reason=reason):
                if not self._runs.refuse(request, reason):
                    self._answers.refuse(request, reason)
            case p.Closed(reason=reason):
                if not self.connection.born:  # its gateway is not on this machine and cannot remove our folder
                    registry.forget(self.name)
                self._shut(SessionClosed(f"session {self.name!r} is closed: {reason}"))
            case p.Status() | p.LogPage() | p.Stacks() | p.Done():
                self._answers.take(reply)

    def _on_record(self, record: p.Record) -> None:
        event = record.event
        self._runs.take(record)
        if isinstance(event, p.Staged):
            self._stages[event.stage.name, event.stage.node] = event.stage
            if event.stage.name == "rendezvous" and event.stage.seconds is not None and self.backend_name == "modal":
                cost = f"; it {cost_line(self.cost)}" if self.cost is not None else "; it has no known price"
                self._notify(f"{self.name} is up: {startup_line(self.stages, self.now())}{cost}")
        elif isinstance(event, p.Notice):
            self._notify(event.text)
        elif isinstance(event, p.SessionChanged):
            if event.state == "degraded" and event.reason:
                self._notify(event.reason)
            self._take_state(event.state)  # which lets go of who waits for the ranks: he is to find what is said of it
            if event.state == "closing":
                self._runs.give_up(SessionClosed(f"session {self.name!r} is closed: {event.reason}"))

    def now(self) -> float:
        """The time of the session's own clock, that of its gateway, in seconds since 1970."""
        return self._runs.now()

    def _take_state(self, state: str) -> None:
        self.state = state
        if state != "launching":
            self._up.set()

    def _notify(self, text: str) -> None:
        if not self.alert(text):
            self.notices.put(text)

    def _on_silence(self, silent: bool) -> None:
        if silent and not self.connection.born:
            threading.Thread(target=self._find_again, name="modal_magic rejoin", daemon=True).start()
        for run in self._runs:
            if silent and run.interrupting:
                self._let_go(run)
            elif silent:
                self._tell_silence(run)

    def _rejoin(self, connection: registry.Connection) -> registry.Connection:
        """Have what leads to the gateway started again, if it is what was lost. How the gateway is reached then."""
        if connection.born:  # it is on this machine, and nothing leads there
            return connection
        told = self._resources.backend(connection.backend).rejoin(connection.session)
        if told:
            self._notify(told)
        return registry.read(connection.session)

    def _find_again(self) -> None:
        """The same in the middle of a session."""
        with contextlib.suppress(SessionError, UsageError):  # it has ended meanwhile
            found = self._rejoin(self.connection)
            if found.port != self.connection.port:
                self.connection = found
                self._client.move(found)

    def _tell_silence(self, run: Run) -> None:
        text = f"{self._client.silence()}. This waits for it; an interrupt ends the wait"
        run.take(p.Notice(text), self.now())

    def _shut(self, error: SessionError, last: p.Message | None = None) -> None:
        if self._error is None:
            self._error = error
        self._ended.set()
        self._client.close(last)
        self._up.set()
        self._runs.give_up(error)
        self._answers.fail(error)

    def _close_resources(self) -> None:
        if self._own_resources:
            self._resources.close()
