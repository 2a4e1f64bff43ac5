"""What options become on Modal: the app's definitions, what the service refuses, and how a session starts by them."""

from __future__ import annotations

import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from modal_magic import registry
from modal_magic.containers import Containers
from modal_magic.errors import RankFailed, SessionError, UsageError
from modal_magic.options import Options
from modal_magic.sessions.session import Resources, Session
from tests.modal_emulator.handle import Handle
from tests.support.eventually import seen
from tests.support.modal_service import modal_book, settings
from tests.support.namespaces import possible
from tests.support.notebook import Notebook
from tests.support.training import begun

__all__ = ["modal_book"]

pytestmark = [
    pytest.mark.patient,
    pytest.mark.timeout(300),  # they wait for containers, behind all else that this machine does
    pytest.mark.namespaces,
    pytest.mark.skipif(not possible(), reason="network namespaces need root and iproute2 on Linux"),
]


@pytest.fixture
def service(modal_service: Handle) -> Iterator[Handle]:
    """The emulator, reached from this process."""
    with modal_service.reached():
        yield modal_service


def deployed(gpu: str | None = None, **options: object) -> str:
    """Deploy the app for such containers; what Modal refuses is said as a session says it."""
    import modal

    from modal_magic.backends import modal_app
    from modal_magic.backends.modal_trouble import explain

    try:
        return modal_app.deployed(gpu, Containers(**options), 2)  # type: ignore[arg-type]
    except modal.exception.Error as error:
        raise SessionError(explain(error)) from error


def test_options_become_the_definitions_of_nodes_and_gateway(service: Handle) -> None:
    import modal

    name = deployed(
        "A100:2,H100:2", region="eu-west", cloud="aws", cpu=4.0, memory=16 * 2**30, preload=("json",), scaledown=300.0,
        min_containers=3, startup_timeout=90.0, bucket=("data:/data",),
    )  # fmt: skip
    found = service.ask("definitions", app=name)
    node, gateway = found["Node.*"], found["Gateway.*"]
    assert (node["gpus"], node["milli_cpu"], node["memory_mb"]) == (["A100:2", "H100:2"], 4000, 16384)
    assert node["regions"] == gateway["regions"] == ["eu-west"]
    assert node["cloud"] == gateway["cloud"] == "aws"
    assert node["i6pn"] and gateway["i6pn"] and node["snapshot"] and not gateway["snapshot"]
    assert gateway["nonpreemptible"] and not node["nonpreemptible"] and gateway["gpus"] == []
    assert node["buckets"] == {"data": "/data"} and gateway["buckets"] == {}
    assert (node["scaledown"], node["timeout"], node["startup_timeout"]) == (300, 24 * 3600, 90)
    assert (node["least"], gateway["least"], node["cluster"]) == (3, 0, 0)
    assert node["secrets"] == [{"MODAL_MAGIC_PRELOAD": "json"}]
    plain = service.ask("definitions", app=deployed(nonpreemptible=True))["Node.*"]
    assert plain["nonpreemptible"] and plain["scaledown"] == 2
    modal.Secret.objects.create("tokens", {"TOKEN": "hush"}, allow_existing=True)
    name = deployed("T4", snapshot="gpu", secret=("tokens",), ephemeral_disk=2**40, python="3.12")
    large = service.ask("definitions", app=name)["Node.*"]
    assert large["secrets"][0] == {"TOKEN": "hush"}
    assert (large["ephemeral_disk_mb"], large["experiments"]) == (2**20, {"enable_gpu_snapshot": "True"})
    assert any("3.12" in layer for layer in service.ask("layers", app=name))


def test_an_app_is_deployed_once_and_anew_for_other_containers(service: Handle) -> None:
    before = len(service.ask("history"))
    first, again, other = deployed(region="us-west"), deployed(region="us-west"), deployed(region="us-central")
    assert first == again != other
    assert service.ask("history")[before:] == [f"deployed {first}", f"deployed {other}"]


def test_a_module_of_the_notebook_travels_along_and_a_change_of_it_is_sent(
    service: Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "of_the_user.py").write_text("value = 1")
    first = deployed(include=("of_the_user",))
    (tmp_path / "of_the_user.py").write_text("value = 2")
    assert deployed(include=("of_the_user",)) != first
    with pytest.raises(UsageError, match="--include nowhere: the notebook cannot import a module of this name"):
        deployed(include=("nowhere",))
    folder = f"{tmp_path}/"
    first = deployed(include=(folder,))
    (tmp_path / ".hidden").write_text("not sent")
    assert deployed(include=(folder,)) == first
    (tmp_path / "of_the_user.py").rename(tmp_path / "renamed.py")
    assert deployed(include=(folder,)) != first
    with pytest.raises(UsageError, match="--include nowhere/: there is no such folder"):
        deployed(include=("nowhere/",))


@pytest.mark.parametrize(
    ("gpu", "options", "words"),
    [
        (None, {"region": "mars-north"}, "Modal refuses such containers (Unknown region 'mars-north')"),
        ("A10:8", {}, "Modal refuses such containers (A container can have at most 4 GPUs of type A10)"),
        ("any", {}, "Modal refuses such containers (Unknown GPU type 'ANY')"),
        (
            None,
            {"clustered": True},
            "Modal refuses such containers (Clustered Functions must use all GPUs of their hosts)",
        ),
        (
            "H100:8",
            {"clustered": True, "min_containers": 3},
            "Modal refuses such containers (`min_containers` (3) must be",
        ),
        (None, {"secret": ("nobody",)}, "Modal does not have what the options name (Secret 'nobody' not found"),
        (
            None,
            {"bucket": ("data:/data:nobody",)},
            "Modal does not have what the options name (Secret 'nobody' not found",
        ),
        (None, {"volume": ("nobody:/data",)}, "Modal does not have what the options name (Volume 'nobody' not found"),
    ],
)
def test_what_modal_refuses_is_said_in_one_sentence(
    service: Handle, gpu: str | None, options: dict[str, object], words: str
) -> None:
    with pytest.raises(SessionError) as refused:
        deployed(gpu, **options)
    assert str(refused.value).startswith(words.removesuffix(")"))
    assert "\n" not in str(refused.value)


def test_the_log_of_an_image_that_cannot_be_built_is_shown(service: Handle, capsys: pytest.CaptureFixture[str]) -> None:
    service.ask("set", settings={"broken_image": "no-such-package"})
    with pytest.raises(SessionError, match="the image of the containers could not be built"):
        deployed(pip=("no-such-package",))
    assert "No matching distribution found for no-such-package" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rpc", "status", "words"),
    [
        ("AppCreate", "PERMISSION_DENIED", "this Modal token may not do that (it is refused here)"),
        ("FunctionCreate", "RESOURCE_EXHAUSTED", "a limit of this Modal workspace is reached: %modal_stop --all ends"),
    ],
)
def test_what_a_token_may_not_and_a_workspace_has_no_more_of_is_said(
    service: Handle, rpc: str, status: str, words: str
) -> None:
    service.ask("set", settings={"refused": {rpc: [status, "it is refused here"]}})
    try:
        with pytest.raises(SessionError) as refused:
            deployed(region="eu-north")
    finally:
        service.ask("set", settings={"refused": {}})
    assert str(refused.value).startswith(words)


def test_a_service_that_cannot_be_reached_is_said_at_once(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        socket.socket() as silent
    ):  # bound, and it never listens: who connects is refused, and nobody else gets the port
        silent.bind(("127.0.0.1", 0))
        refuse(silent.getsockname()[1], resources, monkeypatch)


def refuse(closed: int, resources: Resources, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions where Modal's port is closed."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("MODAL_SERVER_URL", f"http://127.0.0.1:{closed}")
    with pytest.raises(SessionError, match=r"Modal cannot be reached: see .* \(127\.0\.0\.1:.*: Connection refused\)"):
        Session(resources=resources, backend="modal")
    with pytest.raises(SessionError, match="Modal does not say whether its containers have ended"):
        resources.backend("modal").finish("session-1", 1.0, "session-1-key")


def test_the_image_of_a_variable_is_taken_and_what_ranks_need_is_added_to_it(
    service: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import modal

    own = modal.Image.from_registry("ubuntu:24.04", add_python="3.12").run_commands("touch /of-the-user")
    monkeypatch.setattr(sys.modules["__main__"], "mine", own, raising=False)
    before = len(service.ask("history"))
    name = deployed(image="mine")
    assert deployed(image="mine") == name
    assert service.ask("history")[before:] == [f"deployed {name}"] * 2  # it may be another image by now
    layers = service.ask("layers", app=name)
    assert any("touch /of-the-user" in layer for layer in layers)
    assert any("msgspec" in layer for layer in layers)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nonpreemptible": True, "gpu": "A100"}, "--nonpreemptible is for nodes without GPUs"),
        ({"snapshot": "gpu"}, "--snapshot gpu is for nodes with a GPU"),
        ({"clustered": True, "gpu": "H100:4"}, "--clustered is for nodes that are whole hosts, as with --gpu H100:8"),
        ({"clustered": True}, "--clustered is for nodes that are whole hosts"),
        ({"clustered": True, "gpu": "H100:8", "snapshot": "gpu"}, "nodes of a cluster start without a snapshot"),
        ({"no_i6pn": True, "replicas": 2}, "--no-i6pn is for a session of one node"),
        ({"rdma": True}, "--rdma is for the nodes of a cluster"),
    ],
)
def test_options_that_cannot_go_together_are_refused_before_anything_starts(
    options: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Options(**options)  # type: ignore[arg-type]


@contextmanager
def one_node_queued(service: Handle) -> Iterator[None]:
    """Of the nodes that are asked for within this context one comes, and the others stay in Modal's queue."""
    with settings(service, {"held": {}}, held={"Node": service.ask("started", name="Node") + 1}):
        yield


@pytest.mark.kernel
def test_nodes_that_stay_in_the_queue_are_named_and_nothing_goes_on(
    modal_book: Notebook, modal_service: Handle
) -> None:
    with one_node_queued(modal_service):
        shown = modal_book.run("%%modal_distributed --replicas 2 --backend modal --startup-timeout 40s\npass")
        assert re.search(r"nodes? (0|1|0-1) of 2 (is|are) still queued after 40 s", shown.error)
        assert seen(lambda: not modal_service.containers() and modal_service.ask("queued") == {})


@pytest.mark.kernel
def test_a_cell_that_is_taken_back_while_nodes_are_queued_says_that_its_session_goes_on_to_start(
    modal_book: Notebook, modal_service: Handle
) -> None:
    with one_node_queued(modal_service):
        began = time.monotonic()
        sent = modal_book.send("%%modal_distributed --replicas 2 --backend modal\npass")
        assert seen(lambda: bool(registry.names()))
        name = registry.names()[0]
        watching = Session.attach(name, watches=True)
        assert seen(lambda: bool((status := watching.status()).run or status.queued))
        watching.detach()
        modal_book.manager.interrupt_kernel()
        shown = modal_book.collect(sent, began)
        assert shown.error.endswith(f"nothing of it ran. Session {name!r} goes on to start: %modal_stop ends it")
        assert modal_book.run("%modal_stop").stdout == f"{name} is stopped\n"
        assert seen(lambda: not modal_service.containers() and modal_service.ask("queued") == {})


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("trouble", "told", "kept"),
    [
        ("crashes", "nodes start from a snapshot of the CPU's memory instead (--snapshot cpu does so at once)", True),
        ("fails", "Modal had no snapshot of the GPU's memory, or could not restore it: nodes start without", False),
    ],
)
def test_a_gpu_whose_memory_cannot_be_restored_costs_time_and_is_said_once(
    modal_book: Notebook, modal_service: Handle, trouble: str, told: str, kept: bool
) -> None:
    modal_service.ask("set", settings={"gpu_restore": trouble})
    try:
        line = "%%modal_distributed --gpu T4 --snapshot gpu --backend modal --framework none\n"
        shown = modal_book.run(line + "print('here')", 120)
    finally:
        modal_service.ask("set", settings={"gpu_restore": "works"})
    assert "[rank 0] here" in shown.lines, shown.error + modal_service.logs()
    assert shown.stdout.count(told) == 1
    assert seen(
        lambda: [one["checkpointed"] for one in modal_service.containers("Node")] == [kept]
    )  # one may end still


def test_a_node_that_is_taken_away_comes_back_though_its_gpu_cannot_be_restored(
    service: Handle, resources: Resources
) -> None:
    with Session(resources=resources, backend="modal", framework="none", gpu="T4", snapshot="gpu") as session:
        session.ready()
        [first] = service.containers("Node")
        service.ask("set", settings={"gpu_restore": "crashes"})
        try:
            service.ask("interrupt", container=first["id"])
            told: list[str] = []
            while not any(text.startswith("node 0 is back, in another container") for text in told):
                told.append(session.notices.get(timeout=100))
        finally:
            service.ask("set", settings={"gpu_restore": "works"})
        assert "nodes start from a snapshot of the CPU's memory instead" in told[-1]
        assert seen(lambda: session.state == "ready"), service.logs()
        assert session.run("rank").wait(30).ranks[0].result == "0"
        assert service.containers("Node") != [first]
    assert seen(lambda: not service.containers())


def test_a_container_of_another_session_that_has_arrived_is_known(service: Handle) -> None:
    from modal_magic.backends.modal_meeting import GATEWAY, Meeting, NodeAt

    for key, node_rank, container in (("ours", 0, "a"), ("theirs", GATEWAY, "b"), ("theirs", 1, "c"), ("ours", 0, "d")):
        Meeting(key).arrive(node_rank, NodeAt("fdaa::1", container))
    Meeting("theirs").end("over")
    assert Meeting("ours").everyones_containers() >= {*"abcd"}


@pytest.mark.kernel
def test_one_node_does_without_a_snapshot_and_without_i6pn_and_with_a_folder_of_the_user(
    modal_book: Notebook, modal_service: Handle, tmp_path: Path
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "colours.py").write_text("first = open('colours.txt').read()")
    (tmp_path / "colours.txt").write_text("blue")
    line = "%%modal_distributed --backend modal --snapshot off --no-i6pn --nproc-per-node 2 --env COLOUR=red"
    shown = modal_book.run(
        f"{line} --include {tmp_path}/\n"
        "import os, torch, torch.distributed as dist\nfrom parts.colours import first\nassert first == 'blue'\n"
        "total = torch.ones(1)\ndist.all_reduce(total)\n"
        "print(os.environ['COLOUR'], int(total), os.environ['MASTER_ADDR'], os.environ['MODAL_I6PN_ENABLED'])"
    )
    assert [line for line in shown.lines if "red" in line] == [f"[rank {rank}] red 2 127.0.0.1 0" for rank in (0, 1)]
    (only,) = modal_service.containers()
    assert (only["class"], only["checkpointed"]) == ("ColdNode", False)
    # Its gateway goes with it, and what Modal starts in its place has nothing to do.
    modal_service.ask("interrupt", container=only["id"])
    assert seen(lambda: not modal_service.containers() and modal_service.ask("queued") == {})


def test_containers_that_are_kept_serve_another_session_and_keep_nothing_of_the_one_before(
    service: Handle, resources: Resources
) -> None:
    import modal

    found, kept = [], []
    for _ in range(2):
        with Session(resources=resources, backend="modal", framework="none", scaledown=60.0, snapshot="off") as session:
            session.ready().run("pass").wait(30)
            found += service.containers("ColdNode")
            folder = Path(found[0]["log"]).parent / "tmp"
            kept.append(list(folder.glob("modal-magic-*")))
        assert seen(lambda folder=folder: not list(folder.glob("modal-magic-*")))  # type: ignore[misc]
    assert found[0] == found[1] and [len(folders) for folders in kept] == [1, 1]
    modal.App.lookup(found[0]["app"]).stop()
    assert seen(lambda: not service.containers())


@pytest.mark.kernel
def test_ranks_commit_and_reload_their_volumes_and_the_end_of_a_session_commits_once_more(
    modal_book: Notebook, modal_service: Handle, tmp_path: Path
) -> None:
    import modal

    for name, version in (("first", 1), ("second", 2)):
        modal.Volume.from_name(name, create_if_missing=True, version=version).hydrate()
    before = len(modal_service.ask("history"))
    line = (
        f"%%modal_distributed --backend modal --snapshot off --volume first:{tmp_path}/1 --volume second:{tmp_path}/2\n"
    )
    shown = modal_book.run(
        line + "import modal, modal_magic\n"
        "print(modal_magic.checkpoint_dir.parent, modal.is_local())\n"
        "modal_magic.commit()\nmodal_magic.reload()\n"
        # What a cell asks Modal for itself: it is the container that asks.
        "shelf = modal.Dict.from_name('of-the-user', create_if_missing=True)\nshelf['a'] = 1\n"
        "modal.Volume.from_name('first').commit()\nprint(shelf['a'])"
    )
    assert {f"[rank 0] {tmp_path}/1 True", "[rank 0] 1"} <= set(shown.lines), shown.traceback
    modal_service.ask("set", settings={"refused": {"AppList": ["PERMISSION_DENIED", "it is refused here"]}})
    try:
        told = modal_book.run("%modal_stop").error
    finally:
        modal_service.ask("set", settings={"refused": {}})
    assert "is stopped, but Modal does not say whether its containers have ended (it is refused here)" in told
    done = [one.split()[1] for one in modal_service.ask("history")[before:] if "vo-" in one]
    assert done[:5] == ["committed", "committed", "reloaded", "reloaded", "committed"]
    assert set(done[5:]) == {"committed"} and len(done) >= 7


@pytest.mark.kernel
def test_nodes_of_a_cluster_have_the_ranks_that_modal_gave_them_and_have_them_again_after_a_preemption(
    service: Handle, resources: Resources, tmp_path: Path
) -> None:
    with Session(
        resources=resources, backend="modal", gpu="H100:8", nproc_per_node=1, replicas=2, clustered=True, rdma=True,
        framework="none",
    ) as session:  # fmt: skip
        for lost, busy in enumerate(("time.sleep(60)", "while True: pass"), 1):
            done = session.ready().run("import os\nos.environ['NODE_RANK'], os.environ['NCCL_HOSTID']").wait(60)
            found = [eval(done.ranks[rank].result or "") for rank in (0, 1)]
            assert [rank for rank, _ in found] == ["0", "1"] and len({host for _, host in found}) == 2
            there = service.containers("ColdNode")
            assert [one["rank"] for one in there] == [0, 1]
            assert [host.partition("-fdaa")[2] for _, host in found] == [str(one["address"])[4:] for one in there]
            # Ranks that meet nobody are interrupted where they are.
            run = begun(
                session.run(
                    "import modal_magic, pathlib, time\n@modal_magic.on_preempt\ndef save():\n"
                    f"    pathlib.Path({str(tmp_path)!r}, f'{{rank}} saved at loss {lost}').touch()\n"
                    f"print('begun', flush=True)\n{busy}"
                )
            )
            service.ask("interrupt", container=there[1]["id"])
            with pytest.raises(RankFailed, match="rank 1 left the run at cell line 6, for its node is taken away"):
                run.wait(60)
            told: list[str] = []
            while not {f"node {rank} is back, in another container." for rank in (0, 1)} <= {*told}:
                told.append(session.notices.get(timeout=60))
            assert "node 1 is preempted: its ranks save what they can" in told
            assert (tmp_path / f"1 saved at loss {lost}").exists()
            assert seen(lambda: session.state == "ready"), service.logs()
    assert seen(lambda: not service.containers())
