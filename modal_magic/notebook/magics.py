"""The magics: text in, calls out. What they do is in `session`, what they show in `view`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class

from modal_magic import config, registry
from modal_magic.errors import ModalMagicError, RankFailed, SessionError, UsageError
from modal_magic.magic_tables import POSITIONALS, TABLES
from modal_magic.notebook.attaching import is_attended, notebook_of, show_missed, to_return_to
from modal_magic.notebook.background import attend, exits
from modal_magic.notebook.hints import with_hint
from modal_magic.notebook.interrupts import Interrupted
from modal_magic.notebook.magic_options import options_of
from modal_magic.notebook.notices import Notices, say
from modal_magic.notebook.sessions import NotebookSessions
from modal_magic.notebook.taking_over import say_what_only_cells_use
from modal_magic.options import Options, resolve
from modal_magic.protocol import Retries
from modal_magic.ranges import name_ranks
from modal_magic.reading import parse_line
from modal_magic.sessions.checking import check_cell, chosen_ranks
from modal_magic.sessions.resources import Resources
from modal_magic.sessions.run import Run
from modal_magic.sessions.session import TOP_FRAMES
from modal_magic.sessions.transcript import RunLog, left_behind
from modal_magic.view.cell_output import CellOutput
from modal_magic.view.console import follow
from modal_magic.view.logs import save_log, show_log
from modal_magic.view.money import cost_line
from modal_magic.view.picture import choose_picture
from modal_magic.view.stack import stack_lines
from modal_magic.view.startup import startup_line
from modal_magic.view.status import status_lines
from modal_magic.view.text import TextView

__all__ = ["ModalMagics"]

ALL_FRAMES = 100
"""The frames of a rank that `--all-frames` shows at most."""


@magics_class
class ModalMagics(Magics):
    """`%%modal_distributed` and the magics round it, for one kernel."""

    def __init__(self, shell: InteractiveShell, resources: Resources | None = None) -> None:
        super().__init__(shell)
        self.host = shell  # what Magics calls `shell`, which may be None by its type
        self.resources = resources or Resources()
        self.notices = Notices()
        self.sessions = NotebookSessions(
            self.resources, lambda: notebook_of(shell), self.notices.alert, lambda: is_attended(shell)
        )

    # -- the magics

    @line_cell_magic
    @options_of("modal_distributed")
    def modal_distributed(self, line: str, cell: str | None = None) -> Run | None:
        """Run a cell on the ranks of a session, and start the session if need be.

        As a line magic it only starts or changes the session. A cell without shape options goes to the current one.
        With --background the value of the cell is the handle of its run.
        """
        with self.notices.at_work(self.host):
            return self.distribute(line, cell)

    def distribute(self, line: str, cell: str | None) -> Run | None:
        """What `modal_distributed` does."""
        given = parse_line(line, TABLES["modal_distributed"])
        options = resolve(*config.outer_layers(), given)
        number = cell_number(self.host)
        if cell is not None:
            check_cell(self.host, cell, number)
        session = self.sessions.get(given)
        if cell is None:
            say_what_only_cells_use(given)
            session.ready()
            say(f"{session.name}: {session.world_size} rank{'s' * (session.world_size != 1)}, {session.state}")
            self.notices.tell(session)
            return None
        ranks = chosen_ranks(options.ranks, session.world_size)
        show = None if options.show in (None, "all") else chosen_ranks(options.show, session.world_size)
        # All that can be made before the run is: this thread would keep the interpreter from the one that sends it.
        view = TextView(session.world_size, show, merge=False if options.show == "all" else None)
        limited = options.output_limit is not None
        run = session.run(
            cell,
            ranks=ranks,
            output_limit=options.output_limit,
            timeout=options.timeout,
            retries=retries_of(options),
            cell=number,
            first_line=2,
        )
        with taking_along(run):
            if options.handle is not None:
                self.host.push({options.handle: run})
            if options.background:
                self.leave_behind(run, view, limited, options.handle or f"Out[{number}]")
                return run
            picture = choose_picture(in_jupyter(self.host), run)
            follow(run, view, picture, paced=in_jupyter(self.host), limited=limited)
        self.notices.tell(session)
        self.resources.prepare(session.backend_name)  # not earlier: importing torch takes a core for seconds
        for sentence in exits(run):
            say(sentence)
        try:
            run.check()
        except RankFailed as error:
            raise with_hint(error, self.host.user_ns.keys() - self.host.user_ns_hidden.keys()) from None
        return None

    def after_cell(self, result: object) -> None:
        """Any cell of the shell is over: tell what has ended meanwhile."""
        self.notices.tell_ended()

    def leave_behind(self, run: Run, view: TextView, limited: bool, handle: str) -> None:
        """Have a run shown in its cell while the notebook goes on; elsewhere its end is told after a cell."""
        if self.notices.latest is None:
            self.notices.untold.append(run)
            return
        arguments = (run, view, self.notices.latest, limited, handle)
        threading.Thread(target=attend, args=arguments, name=f"modal_magic run {run.id}", daemon=True).start()

    @line_magic
    @options_of("modal_attach")
    def modal_attach(self, line: str) -> None:
        """Bring a session back, as after a restart of the kernel, and show what was missed of its runs.

        Without a name it is that of this notebook, or the only one that no kernel is attached to. A run that goes on is
        shown until its end; an interrupt of this cell interrupts it.
        """
        given = parse_line(line, TABLES["modal_attach"], POSITIONALS["modal_attach"])
        self.notices.latest = CellOutput.of(self.host)
        name = str(given.get("session") or to_return_to(self.resources, notebook_of(self.host)))
        self.sessions.let_go(name)
        session = self.sessions.find(name)
        self.sessions.current = name
        say(f"{name}: {session.state}, {session.shape}")
        show_missed(session, in_jupyter(self.host))
        self.notices.tell(session)

    @line_magic
    @options_of("modal_status")
    def modal_status(self, line: str) -> None:
        """Show a session, or all that this user has on this machine."""
        given = parse_line(line, TABLES["modal_status"])
        names = [str(given["session"])] if "session" in given else registry.names()
        if not names:
            say("no session is running: %%modal_distributed starts one")
        for name in names:
            try:
                with self.sessions.looked_at(name) as session:
                    say("\n".join(status_lines(session.status(), str(session.shape))))
                    if start := startup_line(session.stages, session.now()):
                        say(f"  start: {start}")
                    if (cost := session.cost) is not None:
                        say(f"  {cost_line(cost)}")
                    elif session.backend_name == "modal":
                        say(f"  has no known price: MODAL_MAGIC_PRICES can name one for {session.shape.gpu}")
            except (SessionError, UsageError) as error:
                if "session" in given:
                    raise
                say(f"{name}: {error}")

    @line_magic
    @options_of("modal_logs")
    def modal_logs(self, line: str) -> None:
        """Show what ranks wrote in the last run, also what was past `--output-limit`."""
        given = parse_line(line, TABLES["modal_logs"])
        name, ranks = self.sessions.named(given), given.get("rank")
        if registry.has_left_log(name):
            log = left_behind(registry.folder_of(name), ranks if isinstance(ranks, tuple) else None)
            say(f"the gateway of session {name!r} is gone. This is left of its log; %modal_stop {name} removes it:")
            self.show_log(log, given)
            return
        with self.sessions.looked_at(name) as session:
            self.show_log(session.log(chosen_ranks(ranks, session.world_size)), given)

    @line_magic
    @options_of("modal_interrupt")
    def modal_interrupt(self, line: str) -> None:
        """Interrupt the run of a session that goes on: one in the background, or of another kernel."""
        with self.sessions.looked_at(self.sessions.named(parse_line(line, TABLES["modal_interrupt"]))) as session:
            run = session.interrupt()
        say(f"{session.name}: {'no run is in progress' if run is None else f'run {run} is interrupted'}")

    @line_magic
    @options_of("modal_stack")
    def modal_stack(self, line: str) -> None:
        """Show where every rank is right now: its line of the cell, its collective, its innermost frames."""
        given = parse_line(line, TABLES["modal_stack"])
        whole = bool(given.get("all_frames"))
        with self.sessions.looked_at(self.sessions.named(given)) as session:
            ranks = chosen_ranks(given.get("rank"), session.world_size)
            stacks = session.stacks(ALL_FRAMES if whole else TOP_FRAMES)
        chosen = [stack for stack in stacks if ranks is None or stack.rank in ranks]
        say("\n".join(stack_lines(chosen, whole)))

    @line_magic
    @options_of("modal_restart")
    def modal_restart(self, line: str) -> None:
        """Start ranks of a session anew, without variables: all, or those that `--rank` names."""
        given = parse_line(line, TABLES["modal_restart"])
        with self.sessions.looked_at(self.sessions.named(given)) as session:
            ranks = chosen_ranks(given.get("rank"), session.world_size)
            self.sessions.restart(session, ranks)
        plural = "s" * (session.world_size != 1)
        fresh = f"{session.world_size} fresh rank{plural}" if ranks is None else f"{name_ranks(ranks)} started anew"
        say(f"{session.name}: {fresh}, {session.state}")

    @line_magic
    @options_of("modal_stop")
    def modal_stop(self, line: str) -> None:
        """End a session, or all of them. Variables of the ranks are gone then."""
        given = parse_line(line, TABLES["modal_stop"], POSITIONALS["modal_stop"])
        if given.get("all") and "session" in given:
            raise UsageError("--all stops every session: leave the name out, or leave --all out")
        if given.get("apps") and not given.get("all"):
            raise UsageError("--apps goes with --all: apps serve sessions of every name")
        names = registry.names() if given.get("all") else [self.sessions.named(given)]
        troubles: list[ModalMagicError] = []
        for name in names:
            try:
                self.sessions.stop(name)
            except (SessionError, UsageError) as error:
                troubles.append(error)
        if not names:
            say("no session is running")
        if given.get("all"):
            self.tell_apps(remove=bool(given.get("apps")))
        for trouble in troubles[:-1]:
            say(str(trouble))
        if troubles:
            raise troubles[-1]

    # -- words

    def tell_apps(self, remove: bool) -> None:
        """Tell of the apps on Modal that wait for sessions, or remove them. Modal is asked where it was used here."""
        if not remove and not self.resources.has_used("modal"):
            return
        found = self.resources.backend("modal").apps(remove)
        idle = [one.name for one in found if not one.containers]
        several = "s" * (len(idle) != 1)
        if remove:
            say(f"{len(idle)} idle app{several} removed from Modal{': ' if idle else ''}{', '.join(idle)}")
        elif idle:
            say(
                f"{len(idle)} idle app{several} on Modal: {', '.join(idle)}. They cost nothing, and save the next "
                "session the build; %modal_stop --all --apps removes them"
            )

    def show_log(self, log: RunLog, given: Mapping[str, object]) -> None:
        """Show a log as a line asks for it."""
        last, file = given.get("last"), given.get("file")
        if isinstance(file, str):
            say(save_log(log, Path(file).expanduser()))
        elif not show_log(log, last if isinstance(last, int) else None, in_jupyter(self.host)):
            say("the last run put nothing out")

    def close(self) -> None:
        """Let go of all sessions, which live on until their lease is over, and leave no thread or process."""
        self.sessions.close()
        self.resources.close()


@contextlib.contextmanager
def taking_along(run: Run) -> Iterator[None]:
    """Have an interrupt that comes before the run is followed end it too: nothing would show that it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        with contextlib.suppress(SessionError):
            run.interrupt()
        raise Interrupted("the cell was interrupted before its run was followed: the run is interrupted too") from None


def cell_number(shell: InteractiveShell) -> int:
    """The number of the cell that runs now: `execution_count` is this one or the next, by version of IPython."""
    cells = shell.history_manager.input_hist_parsed if shell.history_manager is not None else []
    return max(0, len(cells) - 1)


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
