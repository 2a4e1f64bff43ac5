"""Connection files: complete or not at all, this user's alone, and not believed when they were tampered with."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from modal_magic import registry
from modal_magic.errors import SessionError, UsageError, VersionMismatch
from modal_magic.protocol import VERSION
from modal_magic.registry import Connection


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of the test's own, which is not there yet."""
    made = tmp_path / "jupyter" / "runtime"
    monkeypatch.setenv("MODAL_MAGIC_RUNTIME_DIR", str(made))
    return made


def connection(session: str = "train") -> Connection:
    return Connection(
        version=VERSION,
        session=session,
        backend="local",
        host="127.0.0.1",
        port=4000,
        gateway_key="g" * 40,
        public_key="p" * 40,
        secret_key="s" * 40,
        nodes=2,
        ranks_per_node=4,
        framework="torch",
        gpu=None,
        environment={"A": "1"},
        pid=os.getpid(),
        born=registry.birth(os.getpid()) or 0.0,
        notebook="/home/me/a.ipynb",
    )


def published(session: str = "train") -> Path:
    """The connection file of a session that is there."""
    registry.claim(session)
    return registry.publish(connection(session))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ---- writing and reading ---------------------------------------------------------------------------------------------


def test_a_session_of_another_version_is_named_as_that_whatever_else_its_file_says() -> None:
    path = published()
    other = {**json.loads(path.read_text()), "version": VERSION + 1, "tomorrow": [1]}
    del other["framework"]
    path.write_text(json.dumps(other))
    with pytest.raises(
        VersionMismatch, match=rf"protocol {VERSION + 1} and this one {VERSION}: %modal_stop train ends"
    ):
        registry.read("train")
    assert registry.outline("train").pid == os.getpid()
    assert registry.living() == []


def test_what_was_published_is_read_back() -> None:
    published()
    assert registry.read("train") == connection()


def test_the_file_and_its_folders_are_this_users_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        path = published()
    finally:
        os.umask(before)
    assert path == folder / "train" / "connection.json"
    assert (mode(path), mode(path.parent), mode(folder)) == (0o600, 0o700, 0o700)


def test_the_file_can_be_read_by_people_and_leaves_nothing_beside_it() -> None:
    path = published()
    assert json.loads(path.read_text())["session"] == "train"
    assert [found.name for found in path.parent.iterdir()] == ["connection.json"]


def test_publishing_again_replaces_the_file_in_one_step() -> None:
    path = published()
    with path.open() as before:
        registry.publish(msgspec.structs.replace(connection(), port=4001))
        assert json.load(before)["port"] == 4000  # a reader that had begun still reads the whole old file
    assert registry.read("train").port == 4001
    assert mode(path) == 0o600


def test_a_reader_never_sees_half_a_file() -> None:
    path = published()
    over = threading.Event()
    errors: list[BaseException] = []

    def read_on() -> None:
        while not over.is_set():
            try:
                registry.read("train")
            except BaseException as error:
                errors.append(error)
                return

    reader = threading.Thread(target=read_on)
    reader.start()
    for number in range(200):
        registry.publish(msgspec.structs.replace(connection(), environment={"A": "x" * number * 50}))
    over.set()
    reader.join()
    assert errors == []
    assert path.exists()


def test_sessions_are_listed_by_name_once_they_can_be_reached() -> None:
    assert registry.names() == []
    registry.claim("starting")
    published("b")
    published("a")
    assert registry.names() == ["a", "b"]


def test_a_session_that_is_forgotten_leaves_nothing(folder: Path) -> None:
    published()
    registry.forget("train")
    registry.forget("train")
    assert list(folder.iterdir()) == []


# ---- what is not believed --------------------------------------------------------------------------------------------


def rewritten(**changes: object) -> bytes:
    return json.dumps(json.loads(msgspec.json.encode(connection())) | changes).encode()


TAMPERED: dict[str, bytes] = {
    "not json": b"{",
    "empty": b"",
    "not utf-8": b'{"session": "\xff"}',
    "a list": b"[]",
    "a field is missing": b'{"session": "train"}',
    "an unknown field": rewritten(command="rm"),
    "a port that is a text": rewritten(port="4000"),
    "an environment of numbers": rewritten(environment={"A": 1}),
    "so deep that nobody can read it": b"[" * 200_000,
}


@pytest.mark.parametrize("data", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_damaged_file_is_refused_with_what_to_do(data: bytes) -> None:
    path = published()
    path.write_bytes(data)
    with pytest.raises(SessionError, match=r"is damaged \(.*\): delete it and start the session anew$") as caught:
        registry.read("train")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o620, 0o602, 0o606])
def test_a_file_that_others_can_read_or_write_is_not_trusted(bits: int) -> None:
    path = published()
    path.chmod(bits)
    with pytest.raises(SessionError, match="is not trusted: delete it and start the session anew"):
        registry.read("train")


def test_a_file_of_another_user_is_not_trusted() -> None:
    path = published()
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)
    with pytest.raises(SessionError, match="is not trusted"):
        registry.read("train")


def put_link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("put", [put_link, put_folder])
def test_what_is_no_plain_file_is_not_trusted(put: Callable[[Path], None]) -> None:
    put(published())
    with pytest.raises(SessionError, match="is not trusted"):
        registry.read("train")


def test_the_file_of_another_session_is_refused() -> None:
    path = published()
    path.write_bytes(msgspec.json.encode(connection("other")))
    with pytest.raises(SessionError, match="is that of session 'other': delete it and start the session anew"):
        registry.read("train")


# ---- names that no session has ---------------------------------------------------------------------------------------


def test_without_sessions_one_is_told_how_to_start_one() -> None:
    with pytest.raises(
        UsageError, match=r"^there is no session 'train': none is running: %%modal_distributed starts one$"
    ):
        registry.read("train")


def test_a_name_that_is_nearly_right_is_answered_with_the_right_one() -> None:
    published("train-large")
    published("evaluation")
    with pytest.raises(UsageError, match=r"^there is no session 'train-lagre'; did you mean 'train-large'\?$"):
        registry.read("train-lagre")


def test_a_name_that_is_like_no_other_is_answered_with_all() -> None:
    published("b")
    published("a")
    with pytest.raises(UsageError, match=r"^there is no session 'zzz': there are 'a', 'b'$"):
        registry.read("zzz")


def test_a_session_that_is_only_starting_cannot_be_reached_yet() -> None:
    registry.claim("train")
    with pytest.raises(UsageError, match="there is no session 'train'"):
        registry.read("train")


@pytest.mark.parametrize("name", ["../train", "a/b", "/etc", "", ".", "x" * 300, "a\0b"])
def test_a_name_that_no_session_can_have_is_answered_as_one_that_none_has(name: str) -> None:
    published()
    with pytest.raises(UsageError, match="there is no session"):
        registry.read(name)


# ---- claims ----------------------------------------------------------------------------------------------------------


def test_sessions_without_a_name_are_numbered() -> None:
    assert [registry.claim(None) for _ in range(3)] == ["session-1", "session-2", "session-3"]
    registry.forget("session-2")
    assert registry.claim(None) == "session-2"


def test_the_name_of_a_running_session_cannot_be_claimed() -> None:
    path = published()
    with pytest.raises(UsageError, match="there is a session 'train' already: %modal_stop train ends it"):
        registry.claim("train")
    assert path.exists()


def test_what_a_session_that_died_has_left_is_cleared_away() -> None:
    path = registry.folder_of("train")
    path.mkdir(mode=0o700)
    (path / "events.log").write_text("old")
    assert registry.claim("train") == "train"
    assert not (path / "events.log").exists()


def test_a_session_that_is_just_starting_is_not_cleared_away() -> None:
    registry.claim("train")
    (registry.folder_of("train") / "events.log").write_text("mine")
    with pytest.raises(UsageError, match="there is a session 'train' already"):
        registry.claim("train")
    assert (registry.folder_of("train") / "events.log").exists()


def ended_process() -> tuple[int, float]:
    """The number and the birth of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        born = registry.birth(process.pid)
    assert born is not None
    return process.pid, born


def test_the_name_of_a_session_is_free_when_its_gateway_is_dead() -> None:
    published()
    pid, born = ended_process()
    registry.publish(msgspec.structs.replace(connection(), pid=pid, born=born))
    assert registry.gateway_lives(registry.read("train")) is False
    assert registry.claim("train") == "train"


def test_another_process_with_the_number_of_a_dead_gateway_is_not_taken_for_it() -> None:
    found = msgspec.structs.replace(connection(), born=connection().born - 3600)
    assert registry.gateway_lives(found) is False
    assert registry.gateway_lives(connection()) is True


def test_of_a_gateway_on_another_machine_nobody_says_that_it_is_dead() -> None:
    assert registry.gateway_lives(msgspec.structs.replace(connection(), born=0.0)) is None


def test_the_claim_of_a_kernel_that_died_before_its_session_started_is_void() -> None:
    registry.claim("train")
    pid, born = ended_process()
    (registry.folder_of("train") / "claim.json").write_bytes(msgspec.json.encode(registry.Claim(pid, born)))
    assert registry.claim("train") == "train"


def race(claim: Callable[[], str]) -> list[str | type[BaseException]]:
    """What eight kernels get that claim at the same moment: a name, or the type of an error."""
    start = threading.Barrier(8)
    got: list[str | type[BaseException]] = []

    def run() -> None:
        start.wait()
        try:
            got.append(claim())
        except BaseException as error:
            got.append(type(error))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


def test_kernels_that_claim_at_once_get_sessions_of_their_own() -> None:
    assert sorted(race(lambda: registry.claim(None)), key=str) == [f"session-{number}" for number in range(1, 9)]


def test_of_kernels_that_claim_one_name_at_once_one_gets_it() -> None:
    for number in range(10):
        got = race(lambda: registry.claim("train"))
        assert sorted(map(str, got)) == sorted(["train"] + 7 * [str(UsageError)]), number
        registry.forget("train")
