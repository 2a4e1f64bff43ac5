"""The connection files: how a session is found and reached by any kernel or server of this user on this machine."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from modal_magic.containers import Containers
from modal_magic.errors import SessionError, UsageError, VersionMismatch
from modal_magic.protocol import VERSION
from modal_magic.values import SESSION_NAME

__all__ = [
    "Connection", "birth", "claim", "folder_of", "forget", "gateway_lives", "has_left_log", "lives", "living", "names",
    "outline", "publish", "read", "runtime_folder",
]  # fmt: skip


Found = TypeVar("Found", bound=msgspec.Struct)

BIRTH_SECONDS = 1.0
"""Births that are no further apart are one."""


class Claim(msgspec.Struct, frozen=True):
    """Who is starting the session of a folder: a process, and its `birth`."""

    pid: int
    born: float


class Connection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client must know to reach a session. `secret_key` lets its holder run code: the file is mode 0600.

    `pid` is the process of the gateway and `born` its `birth`; 0 where that is on another machine. `notebook` is the
    file from which the session was started, empty where that is not known. `meeting` is that of `Reached`.
    """

    version: int
    session: str
    backend: str
    host: str
    port: int
    gateway_key: str
    public_key: str
    secret_key: str
    nodes: int
    ranks_per_node: int
    framework: str
    gpu: str | None
    environment: dict[str, str]
    pid: int
    born: float
    notebook: str
    containers: Containers = msgspec.field(default_factory=Containers)
    meeting: str = ""


class Outline(msgspec.Struct, frozen=True):
    """What the connection file of any version of modal_magic says, in the words of `Connection`."""

    version: int
    backend: str = ""
    pid: int = 0
    born: float = 0.0
    meeting: str = ""


def runtime_folder() -> Path:
    """Where connection files live: beside Jupyter's own, in a folder that only this user may enter."""
    given = os.environ.get("MODAL_MAGIC_RUNTIME_DIR")
    if given:
        folder = Path(given)
    else:
        from jupyter_core.paths import jupyter_runtime_dir

        folder = Path(jupyter_runtime_dir()) / "modal-magic"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def folder_of(session: str) -> Path:
    """The folder of one session."""
    return runtime_folder() / session


def names() -> list[str]:
    """The sessions that have a connection file, by name."""
    return sorted(path.parent.name for path in runtime_folder().glob("*/connection.json"))


def birth(pid: int) -> float | None:
    """When a process of this machine began, in seconds by a clock that nobody sets; None if it is not there."""
    import psutil

    try:
        # Linux counts from the start of the system, and psutil adds when that was: a guess that moves with the clock.
        start = psutil.boot_time() if sys.platform == "linux" else 0.0
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time() - start)
    except psutil.Error:
        return None


def lives(pid: int, born: float) -> bool:
    """Whether the process that had this number at its `birth` is there."""
    began = birth(pid)  # another process may have got the number since
    return began is not None and abs(began - born) < BIRTH_SECONDS


def gateway_lives(connection: Connection) -> bool | None:
    """Whether the process of a gateway is there; None where nobody on this machine can say."""
    return lives(connection.pid, connection.born) if connection.born else None


def living() -> list[Connection]:
    """The sessions of this user whose gateway is not known to be gone, by name."""
    found = []
    for name in names():
        with contextlib.suppress(SessionError, UsageError):  # a file that is damaged leads nowhere
            connection = read(name)
            if gateway_lives(connection) is not False:
                found.append(connection)
    return found


def _is_free(folder: Path) -> bool:
    """Whether the folder of a session is only what one has left that is dead, or that was never started."""
    try:
        if (folder / "connection.json").exists():
            return gateway_lives(read(folder.name)) is False
        claim = msgspec.json.decode((folder / "claim.json").read_bytes(), type=Claim)
        return not lives(claim.pid, claim.born)
    except FileNotFoundError:
        return True
    except (OSError, SessionError, UsageError, msgspec.MsgspecError):
        return False


def _make(folder: Path) -> None:
    """Make the folder of a session with the claim in it, in one step. Raises FileExistsError where there is one."""
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".claim-"))  # mkdtemp makes it 0700
    try:
        (temporary / "claim.json").write_bytes(msgspec.json.encode(Claim(os.getpid(), birth(os.getpid()) or 0.0)))
        temporary.rename(folder)
    except OSError:
        shutil.rmtree(temporary)
        raise FileExistsError(folder) from None


def claim(session: str | None) -> str:
    """Make the folder of a new session: of this name, or of the first of session-1, session-2 … that is free.

    Raises UsageError when a session of this name is there.
    """
    if session is not None:
        folder = folder_of(session)
        if folder.exists() and _is_free(folder):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            _make(folder)
        except FileExistsError:
            raise UsageError(f"there is a session {session!r} already: %modal_stop {session} ends it") from None
        return session
    for number in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            _make(folder_of(f"session-{number}"))
            return f"session-{number}"
    raise AssertionError


def publish(connection: Connection) -> Path:
    """Write the connection file of a session: complete or not at all, and readable by this user alone."""
    folder = folder_of(connection.session)
    descriptor, temporary = tempfile.mkstemp(dir=folder)  # mkstemp makes it 0600
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(connection)))
    path = folder / "connection.json"
    os.replace(temporary, path)
    (folder / "claim.json").unlink(missing_ok=True)
    return path


def read(session: str) -> Connection:
    """The connection of a session.

    Raises UsageError when there is no session of this name, with the nearest that there is, VersionMismatch when
    another version of modal_magic has started it, and SessionError when the file is not what `publish` wrote: another
    user could have put it there to have cells sent to them.
    """
    known = outline(session)
    if known.version != VERSION:
        raise VersionMismatch(
            f"session {session!r} was started by another version of modal_magic, which speaks protocol {known.version} "
            f"and this one {VERSION}: %modal_stop {session} ends it, and a new session has this version"
        )
    connection = _decode(session, Connection)
    if connection.session != session:
        path = folder_of(session) / "connection.json"
        raise SessionError(f"{path} is that of session {connection.session!r}: delete it and start the session anew")
    return connection


def outline(session: str) -> Outline:
    """What is known of a session whichever version of modal_magic has started it. Raises what `read` does."""
    return _decode(session, Outline)


def _decode(session: str, kind: type[Found]) -> Found:
    path = folder_of(session) / "connection.json"
    try:
        if not SESSION_NAME.fullmatch(session):
            raise FileNotFoundError
        if sys.platform != "win32":
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise SessionError(
                    f"{path} can be written or read by others, so it is not trusted: delete it and start the session "
                    "anew"
                )
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        raise UsageError(unknown_session(session)) from None
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise SessionError(f"{path} is damaged ({error}): delete it and start the session anew") from None


def unknown_session(session: str) -> str:
    """The sentence for a name that no session has."""
    known = names()
    near = difflib.get_close_matches(session, known, 1)
    if near:
        return f"there is no session {session!r}; did you mean {near[0]!r}?"
    listed = f"there are {', '.join(map(repr, known))}" if known else "none is running: %%modal_distributed starts one"
    return f"there is no session {session!r}: {listed}"


def has_left_log(session: str) -> bool:
    """Whether a session is dead and its log is still there."""
    folder = folder_of(session)
    return any(folder.glob("events-*.log")) and _is_free(folder)


def forget(session: str) -> None:
    """Remove what is left of a session that is gone."""
    shutil.rmtree(folder_of(session), ignore_errors=True)
