"""The magics: text in, calls out. What they do is in `session`, what they show in `view`."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments

from modal_magic import config, registry
from modal_magic.attaching import notebook_of, refuse_for, show_missed, to_return_to
from modal_magic.checking import check_cell
from modal_magic.errors import (
    GatewayBusy,
    GatewayLost,
    ModalMagicError,
    SessionError,
    SessionGone,
    UsageError,
)
from modal_magic.options import OPTIONS, POSITIONALS, TABLES, Options, differences, resolve
from modal_magic.protocol import Retries
from modal_magic.ranges import name_ranks, parse_ranks
from modal_magic.reading import Option, argument_specs, parse_line
from modal_magic.resources import Resources, choose_backend
from modal_magic.run import Run
from modal_magic.session import TOP_FRAMES, Session
from modal_magic.transcript import RunLog, left_behind
from modal_magic.view.background import CellOutput, attend, ending, exits
from modal_magic.view.console import follow, show
from modal_magic.view.logs import save_log, show_log
from modal_magic.view.picture import choose_picture
from modal_magic.view.stack import stack_lines
from modal_magic.view.startup import startup_line
from modal_magic.view.status import status_lines
from modal_magic.view.text import TextView

__all__ = ["ModalMagics"]

SHAPE = frozenset(option.name for option in OPTIONS if option.scope == "shape")
ALL_FRAMES = 100
"""The frames of a rank that `--all-frames` shows at most."""


def options_of(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Document a magic's options for `?` and Tab from the one table."""

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        table: tuple[Option, ...] = TABLES[name]
        for flags, keywords in reversed(argument_specs(table)):
            method = argument(*flags, **keywords)(method)
        documented: Callable[..., Any] = magic_arguments()(method)

        @functools.wraps(documented)
        def helpful(self: ModalMagics, line: str, *cell: str) -> object:
            if {"-h", "--help"}.isdisjoint(line.split()):
                return documented(self, line, *cell)
            self.say(str(documented.__doc__))
            return None

        return helpful

    return decorate


@magics_class
class ModalMagics(Magics):
    """`%%modal_distributed` and the magics round it, for one kernel."""

    def __init__(self, shell: InteractiveShell, resources: Resources | None = None) -> None:
        super().__init__(shell)
        self.host = shell  # what Magics calls `shell`, which may be None by its type
        self.resources = resources or Resources()
        self.sessions: dict[str, Session] = {}
        self.current: str | None = None
        self.untold: list[Run] = []
        self.ending: set[str] = set()
        self.latest: CellOutput | None = None
        self.at_work = False

    # -- the magics

    @line_cell_magic
    @options_of("modal_distributed")
    def modal_distributed(self, line: str, cell: str | None = None) -> Run | None:
        """Run a cell on the ranks of a session, and start the session if need be.

        As a line magic it only starts or changes the session. A cell without shape options goes to the current one.
        With --background the value of the cell is the handle of its run.
        """
        self.latest, self.at_work = CellOutput.of(self.host), True
        try:
            return self.distribute(line, cell)
        finally:
            self.at_work = False

    def distribute(self, line: str, cell: str | None) -> Run | None:
        """What `modal_distributed` does."""
        given = parse_line(line, TABLES["modal_distributed"])
        options = resolve(config.from_file(Path.cwd()), config.from_environment(os.environ), given)
        if cell is not None:
            check_cell(self.host, cell)
        session = self.get_session(given)
        if cell is None:
            session.ready()
            self.say(f"{session.name}: {session.world_size} rank{'s' * (session.world_size != 1)}, {session.state}")
            return None
        ranks = self.chosen(options.ranks, session.world_size)
        show = None if options.show in (None, "all") else self.chosen(options.show, session.world_size)
        number = len(self.host.user_ns["In"]) - 1  # execution_count is this cell or the next, by version of IPython
        run = session.run(
            cell,
            ranks=ranks,
            output_limit=options.output_limit,
            timeout=options.timeout,
            retries=retries_of(options),
            cell=number,
            first_line=2,
        )
        view = TextView(session.world_size, show, merge=False if options.show == "all" else None)
        limited = options.output_limit is not None
        if options.handle is not None:
            self.host.push({options.handle: run})
        if options.background:
            self.leave_behind(run, view, limited, options.handle or f"Out[{number}]")
            return run
        picture = choose_picture(in_jupyter(self.host), run.view, run.snapshot)
        follow(run, view, picture, paced=in_jupyter(self.host), limited=limited)
        self.tell_notices(session)
        self.resources.prepare(session.backend_name)  # not earlier: importing torch takes a core for seconds
        for sentence in exits(run):
            self.say(sentence)
        run.check()
        return None

    def leave_behind(self, run: Run, view: TextView, limited: bool, handle: str) -> None:
        """Have a run shown in the output of its cell while the notebook goes on; elsewhere its end is told later."""
        if self.latest is None:
            self.untold.append(run)
            return
        arguments = (run, view, self.latest, limited, handle)
        threading.Thread(target=attend, args=arguments, name=f"modal_magic run {run.id}", daemon=True).start()

    @line_magic
    @options_of("modal_attach")
    def modal_attach(self, line: str) -> None:
        """Bring a session back, as after a restart of the kernel, and show what was missed of its runs.

        Without a name it is that of this notebook, or the only one that no kernel is attached to. A run that goes on is
        shown until its end; an interrupt of this cell interrupts it.
        """
        given = parse_line(line, TABLES["modal_attach"], POSITIONALS["modal_attach"])
        self.latest = CellOutput.of(self.host)
        name = str(given.get("session") or to_return_to(self.resources, notebook_of(self.host)))
        self.let_go(name)
        session = self.find(name)
        self.current = name
        self.say(f"{name}: {session.state}, {session.shape}")
        show_missed(session, in_jupyter(self.host))
        self.tell_notices(session)

    @line_magic
    @options_of("modal_status")
    def modal_status(self, line: str) -> None:
        """Show a session, or all that this user has on this machine."""
        given = parse_line(line, TABLES["modal_status"])
        names = [str(given["session"])] if "session" in given else registry.names()
        if not names:
            self.say("no session is running: %%modal_distributed starts one")
        for name in names:
            try:
                with self.looked_at(name) as session:
                    self.say("\n".join(status_lines(session.status(), str(session.shape))))
                    if start := startup_line(session.stages, session.now()):
                        self.say(f"  start: {start}")
            except (SessionError, UsageError) as error:
                if "session" in given:
                    raise
                self.say(f"{name}: {error}")

    @line_magic
    @options_of("modal_logs")
    def modal_logs(self, line: str) -> None:
        """Show what ranks wrote in the last run, also what was past `--output-limit`."""
        given = parse_line(line, TABLES["modal_logs"])
        name, ranks = self.named(given), given.get("rank")
        if registry.has_left_log(name):
            log = left_behind(registry.folder_of(name), ranks if isinstance(ranks, tuple) else None)
            self.say(
                f"the gateway of session {name!r} is gone. This is left of its log; %modal_stop {name} removes it:"
            )
            self.show_log(log, given)
            return
        with self.looked_at(name) as session:
            self.show_log(session.log(self.chosen(ranks, session.world_size)), given)

    @line_magic
    @options_of("modal_interrupt")
    def modal_interrupt(self, line: str) -> None:
        """Interrupt the run of a session that goes on: one in the background, or of another kernel."""
        session = self.existing(parse_line(line, TABLES["modal_interrupt"]))
        run = session.interrupt()
        self.say(f"{session.name}: {'no run is in progress' if run is None else f'run {run} is interrupted'}")

    @line_magic
    @options_of("modal_stack")
    def modal_stack(self, line: str) -> None:
        """Show where every rank is right now: its line of the cell, its collective, its innermost frames."""
        given = parse_line(line, TABLES["modal_stack"])
        whole = bool(given.get("all_frames"))
        with self.looked_at(self.named(given)) as session:
            ranks = self.chosen(given.get("rank"), session.world_size)
            stacks = session.stacks(ALL_FRAMES if whole else TOP_FRAMES)
        chosen = [stack for stack in stacks if ranks is None or stack.rank in ranks]
        self.say("\n".join(stack_lines(chosen, whole)))

    @line_magic
    @options_of("modal_restart")
    def modal_restart(self, line: str) -> None:
        """Start ranks of a session anew, without variables: all, or those that `--rank` names."""
        given = parse_line(line, TABLES["modal_restart"])
        session = self.existing(given)
        ranks = self.chosen(given.get("rank"), session.world_size)
        session.restart(ranks)
        plural = "s" * (session.world_size != 1)
        fresh = f"{session.world_size} fresh rank{plural}" if ranks is None else f"{name_ranks(ranks)} started anew"
        self.say(f"{session.name}: {fresh}, {session.state}")

    @line_magic
    @options_of("modal_stop")
    def modal_stop(self, line: str) -> None:
        """End a session, or all of them. Variables of the ranks are gone then."""
        given = parse_line(line, TABLES["modal_stop"], POSITIONALS["modal_stop"])
        if given.get("all") and "session" in given:
            raise UsageError("--all stops every session: leave the name out, or leave --all out")
        names = registry.names() if given.get("all") else [self.named(given)]
        troubles: list[ModalMagicError] = []
        for name in names:
            try:
                self.stop(name)
            except (SessionError, UsageError) as error:
                troubles.append(error)
        if not names:
            self.say("no session is running")
        for trouble in troubles[:-1]:
            self.say(str(trouble))
        if troubles:
            raise troubles[-1]

    # -- sessions

    def get_session(self, given: Mapping[str, object]) -> Session:
        """The session that a line means: an existing one of the right shape, or a new one."""
        name = given.get("session") or self.current
        if name is None and not SHAPE & given.keys():
            refuse_for(self.resources, notebook_of(self.host))
        known = self.sessions.get(name) if isinstance(name, str) else None
        session = self.living(name) if isinstance(name, str) else None
        if session is None:
            # What takes the place of a session that has ended is as that one was, but for what the line says.
            return self.start(self.wanted(known, given) if known is not None else given, given.get("session"))
        if not differences(given, session.shape):
            if given.get("restart"):
                session.restart()
            self.current = session.name
            return session
        wanted, shape = self.wanted(session, given), session.shape
        if not given.get("restart"):
            asked = resolve({key: wanted[key] for key in SHAPE & wanted.keys()}).shape()
            raise UsageError(
                f"session {session.name!r} has the shape {shape}, and the line asks for {asked}: add --restart to "
                "replace it (its variables are lost), or --session NAME to start another beside it"
            )
        session.stop()
        self.forget(session.name)
        return self.start(wanted, session.name)

    @staticmethod
    def wanted(session: Session, given: Mapping[str, object]) -> dict[str, object]:
        """What a line asks for, the rest of the shape being as the session has it."""
        wanted = {**{option: getattr(session.shape, option) for option in SHAPE}, **given}
        if "gpu" in given and "nproc_per_node" not in given:
            del wanted["nproc_per_node"]  # it was made for other GPUs
        return wanted

    def living(self, name: str) -> Session | None:
        """The session of this name if there is one; one that has ended is forgotten, and that is said."""
        session = self.sessions.get(name)
        try:
            if session is not None and session.closed:
                session.check_open()
            return self.find(name) if session is not None or name in registry.names() else None
        except SessionGone as error:
            self.forget(name)
            told = str(error)
            if isinstance(error, GatewayLost):
                registry.forget(name)
                told = f"the gateway of session {name!r} is gone, so what was left of the session is removed"
            self.say(f"{told}. A new session of the same shape is started")
            return None

    def start(self, given: Mapping[str, object], name: object) -> Session:
        """A new session, which becomes the current one."""
        options = resolve(config.from_file(Path.cwd()), config.from_environment(os.environ), given, {"session": name})
        if options.backend == "auto" and choose_backend("auto") == "local":
            self.say(
                "No Modal token is configured, so the ranks run on this machine. `modal token new` changes that; "
                "--backend local says that it is meant."
            )
        others = [connection.session for connection in registry.living()]
        session = Session.start(self.resources, options, notebook_of(self.host))
        if others:  # it may be that one of these was meant
            there = f"%modal_attach NAME goes to one that is there: {', '.join(others)}"
            print(f"{session.name} is a new session, {session.shape}. {there}", file=sys.stderr, flush=True)
        if options.end_with_kernel:
            self.ending.add(session.name)
        session.alert = self.alert
        self.sessions[session.name] = session
        self.current = session.name
        return session

    def find(self, name: str) -> Session:
        """The session of this name, attached to if this kernel is not yet."""
        session = self.known(name)
        if session is None:
            session = self.sessions[name] = Session.attach(name, self.resources)
            session.alert = self.alert
        return session

    @contextlib.contextmanager
    def looked_at(self, name: str) -> Iterator[Session]:
        """The session of this name to read of. One that this kernel does not use is not kept by that."""
        session = self.known(name)
        if session is not None:
            yield session
            return
        session = Session.attach(name, self.resources, watches=True)
        try:
            yield session
        finally:
            session.detach()

    def known(self, name: str) -> Session | None:
        """The session of this name if this kernel is attached to it."""
        session = self.sessions.get(name)
        if session is not None and not session.closed:
            return session
        self.sessions.pop(name, None)
        if registry.has_left_log(name):
            told = f"but not its log: %modal_logs --session {name}"
            raise GatewayLost(f"the gateway of session {name!r} is gone, {told}")
        return None

    def stop(self, name: str) -> None:
        """End a session, and say how that went. Raises SessionError where it goes on, or may."""
        try:
            self.find(name).stop()
            self.say(f"{name} is stopped")
        except GatewayLost:
            registry.forget(name)
            self.say(f"the gateway of session {name!r} is gone, so what was left of the session is removed")
        except GatewayBusy:
            if registry.gateway_lives(registry.read(name)) is not None:
                raise
            self.say(
                f"session {name!r} cannot be reached, so nothing says that it has ended: if it is still up, it ends "
                "when its lease is over. The key to it on this machine is removed"
            )
            registry.forget(name)
        finally:
            self.forget(name)

    def let_go(self, name: str) -> None:
        """Let go of a session that this kernel waits for nothing of, so that it is told anew what goes on there."""
        session = self.sessions.get(name)
        if session is not None and session.idle and not session.unseen():
            session.detach()
            del self.sessions[name]

    def existing(self, given: Mapping[str, object]) -> Session:
        """The session that a line names, or the current one. Raises UsageError where there is none."""
        return self.find(self.named(given))

    def named(self, given: Mapping[str, object]) -> str:
        """The name of the session that a line means. Raises UsageError where this notebook has none."""
        name = given.get("session") or self.current
        if not isinstance(name, str):
            known = registry.names()
            advice = f"--session names one of {', '.join(known)}" if known else "%%modal_distributed starts one"
            raise UsageError(f"this notebook has no session: {advice}")
        return name

    def forget(self, name: str) -> None:
        """A session is gone."""
        self.sessions.pop(name, None)
        self.ending.discard(name)
        if self.current == name:
            self.current = None

    def chosen(self, ranks: object, world_size: int) -> list[int] | None:
        """The ranks that an option names, checked against those that there are."""
        if not isinstance(ranks, tuple):
            return None
        try:
            return list(parse_ranks(",".join(map(str, ranks)), world_size))
        except ValueError as error:
            raise UsageError(str(error)) from None

    # -- words

    def show_log(self, log: RunLog, given: Mapping[str, object]) -> None:
        """Show a log as a line asks for it."""
        last, file = given.get("last"), given.get("file")
        if isinstance(file, str):
            self.say(save_log(log, Path(file).expanduser()))
        elif not show_log(log, last if isinstance(last, int) else None, in_jupyter(self.host)):
            self.say("the last run put nothing out")

    def say(self, text: str) -> None:
        """A sentence of ours in the cell's output."""
        print(text, flush=True)

    def tell_notices(self, session: Session) -> None:
        """Pass on what the session has to say, and how runs in the background have ended that was not told yet."""
        while not session.notices.empty():
            self.say(session.notices.get())
        for run in [run for run in self.untold if run.done]:
            self.untold.remove(run)
            show(ending(run))

    def alert(self, text: str) -> bool:
        """Tell a notice at once, below the last cell, where none is at work that would tell it. Whether it was told."""
        if self.at_work or self.latest is None:
            return False
        self.latest.put(("stderr", f"{text}\n"))
        return True

    def kernel_ends(self) -> None:
        """The kernel is shut down for good: end the sessions that were started with `--end-with-kernel`."""
        for name in self.ending & self.sessions.keys():
            with contextlib.suppress(ModalMagicError):
                self.sessions[name].end("its kernel was shut down (--end-with-kernel)")

    def close(self) -> None:
        """Let go of all sessions, which live on until their lease is over, and leave no thread or process."""
        for session in self.sessions.values():
            with contextlib.suppress(ModalMagicError):
                session.detach()
        self.sessions.clear()
        self.resources.close()


def retries_of(options: Options) -> Retries:
    """How a run is tried again."""
    return Retries(
        max_retries=options.retries,
        initial_delay=options.retry_initial_delay,
        backoff_coefficient=options.retry_backoff_coefficient,
        max_delay=options.retry_max_delay,
        on_error=options.retry_on_error,
    )


def in_jupyter(shell: InteractiveShell) -> bool:
    """Whether output goes through a Jupyter server, which drops what comes too fast."""
    return hasattr(shell, "kernel")
