"""The sessions of one notebook: which one a line means, and how it is found, started, looked at and let go of."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from modal_magic import config, registry
from modal_magic.errors import (
    GatewayBusy,
    GatewayLost,
    ModalMagicError,
    SessionError,
    SessionGone,
    UsageError,
    VersionMismatch,
)
from modal_magic.notebook.attaching import name_others, refuse_for
from modal_magic.notebook.interrupts import interrupted_as
from modal_magic.notebook.notices import say
from modal_magic.notebook.taking_over import LASTING, limits_of, settings_of, take_over
from modal_magic.options import OPTIONS, Options, differences, resolve
from modal_magic.sessions.checking import check_chosen
from modal_magic.sessions.resources import Resources, choose_backend
from modal_magic.sessions.session import Session
from modal_magic.sessions.unread import end_unread

__all__ = ["NotebookSessions"]

SHAPE = frozenset(option.name for option in OPTIONS if option.scope == "shape")
LIKE_IT = "A new session like it is started"


@dataclass(frozen=True, slots=True)
class Before:
    """The session that was here before: how it ended, as a sentence, its name, and the options that make another."""

    ended: str
    name: str | None
    options: Mapping[str, object]


class NotebookSessions:
    """The sessions that this kernel uses: `attached` by their names, and the `current` one, for lines that name none.

    `notebook` tells the file of the notebook, `attended` whether somebody sits there; `alert` tells a notice at once,
    if it can.
    """

    def __init__(
        self,
        resources: Resources,
        notebook: Callable[[], str],
        alert: Callable[[str], bool],
        attended: Callable[[], bool],
    ) -> None:
        self.attached: dict[str, Session] = {}
        self.current: str | None = None
        self._resources, self._notebook, self._alert, self._attended = resources, notebook, alert, attended
        self._ending: set[str] = set()
        self._settings: dict[str, dict[str, object]] = {}
        self._before: Before | None = None

    @property
    def names(self) -> tuple[str | None, frozenset[str]]:
        """The current session, and those that end with the kernel: what `resume` takes."""
        return self.current, frozenset(self._ending)

    def resume(self, current: str | None, ending: frozenset[str]) -> None:
        """Have the sessions of an earlier load again, as far as they are still there: each once it is needed."""
        there = registry.names()
        self.current = current if current in there else None
        self._ending = set(ending.intersection(there))

    def get(self, given: Mapping[str, object]) -> Session:
        """The session that a line means: an existing one of the right shape, or a new one."""
        name = given.get("session") or self.current
        if name is None and not SHAPE & given.keys():
            refuse_for(self._resources, self._notebook(), self._attended())
            if (before := self._before) is not None:
                say(f"{before.ended}. {LIKE_IT}")
                return self.start(_wanted(before.options, given), _if_free(before.name))
        known = self.attached.get(name) if isinstance(name, str) else None
        as_it_was = self._as_it_is(known) if known is not None else {}
        session = self._living(name) if isinstance(name, str) else None
        if session is None:
            # What takes the place of a session that has ended is as that one was, but for what the line says.
            return self.start(_wanted(as_it_was, given), given.get("session") or _if_free(name))
        if not differences(given, session.shape):
            check_chosen(given.get("ranks"), given.get("show"), session.world_size)
            self._settings[session.name] = take_over(session, given, self._settings.get(session.name, {}))
            self._end_with_kernel(session.name, given)
            if given.get("restart"):
                self.restart(session)
            self.current = session.name
            return session
        wanted, shape = _wanted(self._as_it_is(session), given), session.shape
        if not given.get("restart"):
            asked = resolve({key: wanted[key] for key in SHAPE & wanted.keys()}).shape()
            raise UsageError(
                f"session {session.name!r} has the shape {shape}, and with this line it would have {asked}: add "
                "--restart to replace it (its variables are lost), or --session NAME to start another beside it"
            )
        self._options(wanted, session.name)  # raises what makes no sense before anything is lost
        try:
            with interrupted_as(lambda: f"interrupted while {session.name} was stopped, which another was to replace"):
                session.stop()
        except KeyboardInterrupt:  # it ends all the same
            self._forget(session.name)
            self._before = _left(f"session {session.name!r} was stopped", session.name, wanted)
            raise
        self._forget(session.name)
        return self.start(wanted, session.name)

    def _as_it_is(self, session: Session) -> dict[str, object]:
        """The options that make another session like this one: its shape, and its settings as far as they are known."""
        shape = {option: getattr(session.shape, option) for option in SHAPE}
        return {**shape, **self._settings.get(session.name, {})}

    def _living(self, name: str) -> Session | None:
        """The session of this name if there is one; one that has ended is forgotten, and that is said."""
        session = self.attached.get(name)
        try:
            if session is not None and session.closed:
                session.check_open()
            return self.find(name) if session is not None or name in registry.names() else None
        except SessionGone as error:
            self._forget(name)
            told = str(error)
            if isinstance(error, GatewayLost):
                registry.forget(name)
                told = f"the gateway of session {name!r} is gone, so what was left of the session is removed"
            say(f"{told}. {LIKE_IT}")
            return None

    def start(self, given: Mapping[str, object], name: object) -> Session:
        """A new session, which becomes the current one."""
        options = self._options(given, name)
        if options.backend == "auto" and choose_backend("auto") == "local":
            say(
                "No Modal token is configured, so the ranks run on this machine. `modal token new` changes that; "
                "--backend local says that it is meant."
            )
        others = registry.living()
        before = set(registry.names())
        try:
            with interrupted_as(lambda: _left_of_start(set(registry.names()) - before)):
                session = self._use(Session.start(self._resources, options, self._notebook()))
        except KeyboardInterrupt:
            self._before = _left("the start of a session was interrupted", options.session, given)
            raise
        self.current, self._before = session.name, None
        if others:
            there = name_others(self._resources, self._notebook(), others)
            print(f"{session.name} is a new session, {session.shape}. {there}", file=sys.stderr, flush=True)
        settings = {option.name: getattr(options, option.name) for option in OPTIONS if option.scope == "session"}
        self._settings[session.name] = settings_of(settings, session.backend_name)
        self._end_with_kernel(session.name, settings)
        return session

    def _use(self, session: Session) -> Session:
        """Have this notebook use a session that it is attached to."""
        self.attached[session.name] = session
        session.alert = self._alert
        return session

    @staticmethod
    def _options(given: Mapping[str, object], name: object) -> Options:
        """What a line asks for of a new session. Raises UsageError for ranks that the session would not have."""
        options = resolve(*config.outer_layers(), given, {"session": name})
        shape = options.shape()
        check_chosen(options.ranks, options.show, shape.replicas * shape.nproc_per_node)
        return options

    def _end_with_kernel(self, name: str, given: Mapping[str, object]) -> None:
        if given.get("end_with_kernel"):
            self._ending.add(name)
        elif "end_with_kernel" in given:
            self._ending.discard(name)

    def find(self, name: str) -> Session:
        """The session of this name, attached to if this kernel is not yet."""
        session = self._known(name)
        if session is None:
            session = self._use(Session.attach(name, self._resources))
            with contextlib.suppress(SessionError):
                self._settings[name] = limits_of(session.status())
        return session

    @staticmethod
    def restart(session: Session, ranks: Sequence[int] | None = None) -> None:
        """Start these ranks anew (None: all)."""
        with interrupted_as(lambda: "interrupted while ranks were started anew: %modal_status shows them"):
            session.restart(ranks)

    @contextlib.contextmanager
    def looked_at(self, name: str) -> Iterator[Session]:
        """The session of this name for one request. One that this kernel does not use is not kept by that."""
        session = self._known(name)
        if session is not None:
            yield session
            return
        session = Session.attach(name, self._resources, watches=True)
        try:
            yield session
        finally:
            session.detach()

    def _known(self, name: str) -> Session | None:
        """The session of this name if this kernel is attached to it."""
        session = self.attached.get(name)
        if session is not None and not session.closed:
            return session
        if registry.has_left_log(name):
            told = f"but not its log: %modal_logs --session {name}"
            raise GatewayLost(f"the gateway of session {name!r} is gone, {told}")
        return None

    def stop(self, name: str) -> None:
        """End a session, and say how that went. Raises SessionError where it goes on, or may."""
        before = self._before
        try:
            with interrupted_as(lambda: f"interrupted while {name} was stopped: %modal_status shows what is left"):
                session = self.find(name)
                if self.current == name:
                    before = Before(f"session {name!r} was stopped", name, self._as_it_is(session))
                session.stop()
            say(f"{name} is stopped")
        except VersionMismatch:
            end_unread(name, self._resources)
            say(f"{name} is stopped")
        except GatewayLost:
            registry.forget(name)
            say(f"the gateway of session {name!r} is gone, so what was left of the session is removed")
        except GatewayBusy:
            if registry.gateway_lives(registry.read(name)) is not None:
                before = None
                raise
            say(
                f"session {name!r} cannot be reached, so nothing says that it has ended: if it is still up, it ends "
                "when its lease is over. The key to it on this machine is removed"
            )
            registry.forget(name)
            before = None
        finally:  # also after an interrupt: it ends all the same
            self._forget(name)
            self._before = before

    def let_go(self, name: str) -> None:
        """Let go of a session that this kernel waits for nothing of, so that it is told anew what goes on there."""
        session = self.attached.get(name)
        if session is not None and session.idle and not session.unseen():
            session.detach()
            del self.attached[name]

    def named(self, given: Mapping[str, object]) -> str:
        """The name of the session that a line means. Raises UsageError where this notebook has none."""
        name = given.get("session") or self.current
        if not isinstance(name, str):
            known = registry.names()
            advice = f"--session names one of {', '.join(known)}" if known else "%%modal_distributed starts one"
            raise UsageError(f"this notebook has no session: {advice}")
        return name

    def _forget(self, name: str) -> None:
        """A session is gone."""
        self.attached.pop(name, None)
        self._ending.discard(name)
        self._settings.pop(name, None)
        if self.current == name:
            self.current = None

    def kernel_ends(self) -> None:
        """The kernel is shut down for good: end the sessions that were started with `--end-with-kernel`."""
        for name in list(self._ending):
            with contextlib.suppress(ModalMagicError):
                self.find(name).end("its kernel was shut down (--end-with-kernel)")

    def kernel_leaves(self) -> None:
        """The kernel is shut down or restarted: what it has sent goes on without it, also what it waits for.

        Like `kernel_ends` it may be called beside a cell that starts or stops sessions.
        """
        for session in list(self.attached.values()):
            with contextlib.suppress(ModalMagicError):
                session.detach("as it ends. What runs there goes on")

    def close(self) -> None:
        """Let go of all sessions, which live on until their lease is over, and leave no thread of theirs."""
        for session in list(self.attached.values()):
            with contextlib.suppress(ModalMagicError):
                session.detach()
        self.attached.clear()


def _left(ended: str, name: str | None, given: Mapping[str, object]) -> Before:
    return Before(ended, name, {option: given[option] for option in LASTING & given.keys()})


def _if_free(name: object) -> str | None:
    """The name of a session that has ended, for the one that takes its place, unless somebody has taken it."""
    return name if isinstance(name, str) and not registry.folder_of(name).exists() else None


def _wanted(as_it_was: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """What a line asks for, the rest being as it was before."""
    wanted = {**as_it_was, **given}
    for name, follows in {"nproc_per_node": "gpu", "idle": "backend"}.items():
        if follows in given and name not in given:
            wanted.pop(name, None)  # it was made for other GPUs, or another place
    return wanted


def _left_of_start(names: Collection[str]) -> str:
    """What an interrupt of the start of a session has left: sessions that are there now and were not before."""
    told = "the start of the session was interrupted"
    if names:
        return f"{told}: %modal_status shows whether {', '.join(sorted(names))} is left of it"
    return f"{told}: nothing of it is left"
