"""Who is forked by whom, who dies with whom, and that nobody stays behind (real processes)."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from modal_magic import GatewayLost, RankFailed, RunInterrupted, Session, SessionClosed, SessionError, registry
from modal_magic.backends.local import Host, LocalBackend
from modal_magic.backends.zygotes import await_ready, spawn
from modal_magic.links.link import make_keys
from modal_magic.protocol import Output
from modal_magic.sessions.resources import Resources
from modal_magic.specs import GatewaySpec, GatewayUp, StartGateway, Take
from tests.support import memory
from tests.support.notebook import notebook
from tests.support.processes import gone, ours


@pytest.fixture
def session(shared_session: Session) -> Session:
    return shared_session


def tree(session: Session) -> tuple[psutil.Process, list[int]]:
    """The zygote of a session, and the ranks' process ids."""
    pids = [rank.pid for rank in session.ready().status().ranks]
    parent = psutil.Process(pids[0]).parent()
    assert parent is not None
    return parent, pids


def everyone(session: Session) -> list[int]:
    """All processes of a session: zygote, gateway, agents, ranks and what they started."""
    zygote, _ = tree(session)
    return [zygote.pid, *(child.pid for child in zygote.children(recursive=True))]


def test_all_processes_of_a_session_are_children_of_one_zygote(session: Session) -> None:
    session.run("pass").wait(30)
    zygote, pids = tree(session)
    assert {psutil.Process(pid).ppid() for pid in pids} == {zygote.pid}
    assert len(zygote.children()) == 4 + 4 + 1  # ranks, agents, gateway
    assert zygote.num_threads() == 1


def test_what_a_cell_starts_holds_none_of_its_rank_s_lines_to_the_agent(session: Session) -> None:
    inherited = (
        "import os, socket, stat\n"
        "open_sockets = [socket.socket(fileno=os.dup(number)) for number in range(3, 100)\n"
        "    if os.path.exists(f'/proc/self/fd/{number}') and os.get_inheritable(number)\n"
        "    and stat.S_ISSOCK(os.stat(number).st_mode)]\n"
        "[each.family.name for each in open_sockets if each.family == socket.AF_UNIX]"
    )
    assert session.run(inherited, ranks=[0]).wait(30).ranks[0].result == "[]"


def test_ports_of_sessions_never_collide(session: Session, resources: Resources) -> None:
    ask = "import os; os.environ['MASTER_PORT']"
    with Session(resources=resources, backend="local") as other:
        ports = [made.run(ask, ranks=[0]).wait(30).ranks[0].result for made in (session, other)]
    assert ports[0] != ports[1]


def test_a_second_session_finds_a_warm_zygote(runtime_folder: Path) -> None:
    own = Resources()
    try:
        own.prepare()
        with Session(resources=own, backend="local") as first:
            own.prepare()
            backend = own.backend("local")
            assert isinstance(backend, LocalBackend)
            (waiting,) = backend._warm or []
            with Session(resources=own, backend="local") as second:
                assert tree(second)[0].pid == waiting.process.pid != tree(first)[0].pid
    finally:
        own.close()


def test_a_session_takes_the_kernel_s_directory_path_and_environment(
    resources: Resources, nothing_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text("value = 'found'")
    resources.prepare()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATE_VARIABLE", "seen")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    with Session(resources=resources, backend="local") as made:
        run = made.run("import os, beside; (os.getcwd(), os.environ['LATE_VARIABLE'], beside.value)").wait(30)
        assert eval(run.ranks[0].result or "") == (str(tmp_path), "seen", "found")


def test_a_variable_that_is_read_at_import_gets_a_fresh_zygote(
    resources: Resources, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_SHOW_CPP_STACKTRACES", "1")
    with Session(resources=resources, backend="local", env={"PYTHONHASHSEED": "7"}) as made:
        run = made.run("import os, sys; (os.environ['PYTHONHASHSEED'], sys.flags.hash_randomization)").wait(60)
        assert run.ranks[0].result == "('7', 1)"


def test_a_start_that_its_kernel_does_not_live_to_finish_leaves_nothing(nothing_left: None) -> None:
    keys = make_keys()
    zygote = spawn(dict(os.environ))
    await_ready(zygote)
    folder = registry.folder_of(registry.claim("unfinished"))
    zygote.tell(Take(str(folder), os.getcwd(), sys.path, dict(os.environ)))
    spec = GatewaySpec(
        session="unfinished",
        host="127.0.0.1",
        public_key=keys.public,
        secret_key=keys.secret,
        client_key=keys.public,
        node_key=keys.public,
        nodes=1,
        ranks_per_node=1,
        framework="none",
        accelerated=False,
        i6pn=False,
        environment={},
        lease=1000,
        folder=str(folder),
        log_limit=10**9,
    )
    zygote.tell(StartGateway(spec))
    up = zygote.hear()
    assert isinstance(up, GatewayUp)
    zygote.let_go()
    assert gone([up.pid, zygote.process.pid])
    assert not folder.exists()
    zygote.process.wait()


def test_a_gateway_that_cannot_start_is_told_with_the_reason_and_leaves_nothing(nothing_left: None) -> None:
    own = Resources({"local": LocalBackend((Host("203.0.113.1"),))})
    with pytest.raises(SessionError, match=r"the gateway did not start: .*Cannot assign requested address"):
        Session(resources=own, backend="local", framework="none")
    own.close()


def test_a_zygote_that_still_imports_is_not_waited_for(nothing_left: None) -> None:
    own = Resources()
    own.prepare()
    backend = own.backend("local")
    assert isinstance(backend, LocalBackend)
    (waiting,) = backend._warm or []
    own.close()
    assert waiting.process.returncode == -signal.SIGKILL


def test_a_rank_that_does_not_listen_keeps_no_other_waiting(resources: Resources, nothing_left: None) -> None:
    with Session(resources=resources, nproc_per_node=2, backend="local") as session:
        _, pids = tree(session)
        stopped = psutil.Process(pids[1])
        stopped.suspend()
        run = session.run("rank #" + "x" * 5_000_000)  # more than any socket holds
        while run.ranks.get(0) is None or run.ranks[0].state != "done":
            run.events(1.0)
        assert session.status().state == "running"
        stopped.resume()
        assert run.wait(30).ranks[1].result == "1"


def test_where_a_fork_is_not_safe_ranks_are_spawned_and_it_is_said(
    nothing_left: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading, time\n"
        "if 'modal_magic.node.zygote' in sys.orig_argv:\n"
        "    threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()\n"
    )
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "only_there.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path, str(beside)])
    with Session(replicas=2, backend="local") as made:
        run = made.run(
            "import only_there, torch, torch.distributed as dist\nt = torch.ones(1); dist.all_reduce(t); int(t)"
        ).wait(90)
        assert [run.ranks[rank].result for rank in (0, 1)] == ["2", "2"]
        told = made.notices.get_nowait()
        assert "a preimported module has started a thread" in told and "without the fast path" in told


@pytest.mark.skipif(not memory.possible(), reason="control groups of memory need root on Linux")
def test_a_rank_that_takes_too_much_memory_is_named_with_that(session: Session) -> None:
    session.run("kept = rank").wait(30)
    _, pids = tree(session)
    with memory.limited(pids[1], 300_000_000):
        with pytest.raises(RankFailed) as failed:
            session.run("kept = rank == 1 and b'x' * 2_000_000_000").wait(30)
        assert gone([pids[1]])
    assert str(failed.value).startswith("rank 1 was killed by SIGKILL, as its system ran out of memory.")


def test_a_rank_that_dies_while_a_group_forms_holds_nobody_up(session: Session) -> None:
    session.run("kept = rank").wait(30)
    sleepy = "import time\nfrom torch.distributed import distributed_c10d as c10d\n"
    sleepy += "c10d._new_process_group_helper = lambda *rest, **options: time.sleep(1000)"
    session.run(sleepy, ranks=[3]).wait(30)
    _, pids = tree(session)
    with pytest.raises(RankFailed, match="ZeroDivisionError"):
        session.run("import torch, torch.distributed as dist\nif rank == 0: 1 / 0\ndist.barrier()").wait(30)
    while [rank.state for rank in session.status().ranks] != ["rendezvous"] * 4:
        threading.Event().wait(0.01)
    threading.Event().wait(0.5)  # past the door, into torch's own rendezvous, which waits for an address of rank 3
    os.kill(pids[3], signal.SIGKILL)
    done = session.run("import torch, torch.distributed as dist\nt = torch.ones(1); dist.all_reduce(t); int(t)").wait(
        20
    )
    assert [done.ranks[rank].result for rank in range(4)] == ["4"] * 4
    assert [session.run("kept", ranks=[rank]).wait(30).ranks[rank].result for rank in range(3)] == ["0", "1", "2"]


def test_what_a_rank_started_dies_with_the_rank(session: Session) -> None:
    run = session.run(
        "import subprocess\nchild = subprocess.Popen(['sleep', '1000'], start_new_session=rank == 0)\nchild.pid"
    )
    pids = [int(view.result or 0) for view in run.wait(30).ranks.values()]
    with pytest.raises(RankFailed):
        session.run("import os; os._exit(1)").wait(30)
    assert gone(pids)


def test_data_loader_workers_leave_no_orphan(session: Session) -> None:
    with pytest.raises(RankFailed):
        session.run(
            "import os, torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
            "for batch in DataLoader(TensorDataset(torch.arange(80)), batch_size=2, num_workers=2):\n    os._exit(1)",
            ranks=[0],  # ranks that are interrupted because another has died keep theirs until these are collected
        ).wait(60)
    session.run("pass").wait(30)
    zygote, pids = tree(session)
    until = time.monotonic() + 10
    while len(zygote.children(recursive=True)) > 4 + 4 + 1 and time.monotonic() < until:  # it is killed, and dies soon
        threading.Event().wait(0.01)
    assert {child.pid for child in zygote.children(recursive=True)} >= set(pids)
    assert len(zygote.children(recursive=True)) == 4 + 4 + 1


def test_an_interrupt_ends_the_workers_of_a_data_loader_too(session: Session) -> None:
    _, pids = tree(session)
    loop = "for number, batch in enumerate(DataLoader(range(10**9), num_workers=2)): number == 9 and print('on')"
    run = session.run(f"from torch.utils.data import DataLoader\n{loop}", ranks=[0])
    while not any(isinstance(event, Output) for event in run.events(1.0)):
        assert not run.done
    workers = [child.pid for child in psutil.Process(pids[0]).children()]
    run.interrupt()
    with pytest.raises(RunInterrupted, match="variables are kept"):
        run.wait(30)
    assert len(workers) == 2 and gone(workers)
    assert run.ranks[0].output == "on\n"


def test_stopping_leaves_no_process_and_no_file(resources: Resources, runtime_folder: Path) -> None:
    resources.prepare()
    session = Session(resources=resources, replicas=2, backend="local")
    session.run("import subprocess; subprocess.Popen(['sleep', '1000'])").wait(30)
    pids = everyone(session)
    assert len(pids) == 1 + 1 + 2 + 2 + 2
    session.stop()
    assert gone(pids, seconds=1)
    assert session.name not in [path.name for path in runtime_folder.iterdir()]


def test_a_rank_that_ignores_its_end_is_killed(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, backend="local", framework="none")
    session.run("import atexit, time\natexit.register(time.sleep, 1000)").wait(30)
    session.stop()


@pytest.mark.kernel
def test_a_session_outlives_its_kernel_and_can_be_attached_to(resources: Resources, nothing_left: None) -> None:
    with notebook() as book:
        book.run("%load_ext modal_magic")
        book.run("%%modal_distributed --replicas 2 --backend local --session kept\nx = rank + 1")
        book.manager.shutdown_kernel(now=True)
    with Session.attach("kept", resources) as session:
        assert [session.run("x").wait(30).ranks[rank].result for rank in (0, 1)] == ["1", "2"]


@pytest.mark.kernel
def test_a_killed_kernel_leaves_no_process_that_no_session_needs(runtime_folder: Path) -> None:
    before = {process.pid for process in ours(str(runtime_folder))}
    with notebook() as book:
        book.run("%load_ext modal_magic")
        kernel = int(book.run("import os; print(os.getpid())").stdout)
        os.kill(kernel, signal.SIGKILL)
        left = [process.pid for process in ours(str(runtime_folder)) if process.pid not in before]
        assert gone(left)


def test_a_lease_that_is_over_ends_the_session_and_leaves_nothing(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, backend="local", framework="none", lease=1)
    pids, backend = everyone(session), resources.backend("local")
    assert isinstance(backend, LocalBackend)
    [zygote] = backend._serving[session.name]
    session.detach()
    assert gone(pids)
    assert session.name not in registry.names()
    zygote.process.wait(10)
    resources.prepare()
    assert session.name not in backend._serving and zygote.process.stdin is not None and zygote.process.stdin.closed


def test_no_lease_runs_out_while_a_run_goes_on(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, backend="local", framework="none", lease=0.5)
    name = session.name
    session.run("import time; time.sleep(8); kept = 'still here'")
    assert session.status().lease_left is None
    session.detach()
    threading.Event().wait(1.5)  # three leases
    with Session.attach(name, resources) as again:
        assert again.run("kept").wait(30).ranks[0].result == "'still here'"


def test_a_rank_whose_agent_is_killed_ends_even_when_it_holds_the_gil(session: Session) -> None:
    run = session.run("import ctypes\nctypes.PyDLL(None).sleep(1000)")
    zygote, pids = tree(session)
    agents = [child for child in zygote.children() if child.pid not in pids and child.pid != session.connection.pid]
    assert len(agents) == 4
    for agent in agents:
        agent.kill()
    assert gone(pids, seconds=3)
    with pytest.raises((RankFailed, SessionError)):
        run.wait(10)


def test_a_gateway_that_is_killed_while_it_is_told_to_end_is_no_reason_to_wait_and_leaves_nothing(
    resources: Resources, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(resources=resources, replicas=2, backend="local")
    run = session.run("import time; time.sleep(1000)")
    pids = everyone(session)
    monkeypatch.setattr(session, "end", lambda _: os.kill(session.connection.pid, signal.SIGKILL))
    session.stop()
    with pytest.raises(GatewayLost, match="is gone"):
        run.wait(0)
    assert gone(pids)
    assert session.name not in registry.names()


def test_ranks_live_on_without_their_zygote_and_it_is_said(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, replicas=2, backend="local")
    session.run("x = rank").wait(30)
    pids = everyone(session)
    os.kill(pids[0], signal.SIGKILL)
    assert "cannot be started again" in session.notices.get(timeout=10)
    assert session.run("x").wait(30).ranks[1].result == "1"
    started = session.run("import os, subprocess; subprocess.Popen(['sleep', '1000']).pid", ranks=[1]).wait(30)
    with pytest.raises(RankFailed, match="rank 1 is gone; with the zygote of its node gone too, nobody can say why"):
        session.run("import signal; rank and os.kill(os.getpid(), signal.SIGKILL)", ranks=[1]).wait(30)
    assert gone([int(started.ranks[1].result or 0)])
    assert session.run("x", ranks=[0]).wait(30).ranks[0].result == "0"
    session.stop()
    assert gone(pids)


def test_an_agent_that_is_killed_is_replaced_in_a_session_of_one_node(resources: Resources, nothing_left: None) -> None:
    with Session(resources=resources, nproc_per_node=2, backend="local") as session:
        run = session.run("import time; time.sleep(1000)")
        zygote, pids = tree(session)
        (agent,) = [child for child in zygote.children() if child.pid not in (*pids, session.connection.pid)]
        agent.kill()
        with pytest.raises(RankFailed, match="ranks 0-1 ended with the agent of node 0, which was killed by SIGKILL"):
            run.wait(10)
        done = session.run("import torch, torch.distributed as dist; t = torch.ones(1); dist.all_reduce(t); int(t)")
        assert [done.wait(30).ranks[rank].result for rank in (0, 1)] == ["2", "2"]


def test_a_session_that_another_client_stops_says_so_to_whoever_waits(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, replicas=2, backend="local", framework="none")
    run = session.run("import time; time.sleep(1000)")
    other = Session.attach(session.name, resources)
    other.stop()
    with pytest.raises(SessionClosed, match="is closed: it was stopped"):
        run.wait(10)
    session.stop()


def test_a_group_that_cannot_be_formed_is_named_with_its_reason(resources: Resources, nothing_left: None) -> None:
    session = Session(resources=resources, replicas=2, backend="local", env={"GLOO_SOCKET_IFNAME": "nope0"})
    with pytest.raises(SessionClosed, match=r"rank \d could not join the process group"):
        session.run("1").wait(60)
    session.stop()
