"""What a cell can count on, on every backend."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from modal_magic import RankFailed, Session
from modal_magic.sessions.run import Run

pytestmark = pytest.mark.patient

EVERY = range(4)


def run(session: Session, source: str, **options: object) -> Run:
    """Run a cell on all ranks and wait for its end."""
    return session.run(textwrap.dedent(source), **options).wait(60)  # type: ignore[arg-type]


def outputs(done: Run) -> list[str]:
    """What each rank wrote, in the order of ranks."""
    return [done.ranks[rank].output for rank in EVERY]


def results(done: Run) -> list[str | None]:
    """The value of each rank's last expression, in the order of ranks."""
    return [done.ranks[rank].result for rank in EVERY]


def test_each_rank_knows_who_it_is(ranks: Session) -> None:
    assert results(run(ranks, "rank, world_size")) == [f"({rank}, 4)" for rank in EVERY]


def test_variables_stay_for_the_next_cell(ranks: Session) -> None:
    run(ranks, "kept = rank * 10")
    assert results(run(ranks, "kept + 1")) == ["1", "11", "21", "31"]


def test_there_is_a_folder_for_checkpoints(ranks: Session) -> None:
    done = run(ranks, "import modal_magic\nmodal_magic.checkpoint_dir.is_dir(), str(modal_magic.checkpoint_dir)")
    found = {eval(text or "") for text in results(done)}
    assert len(found) == 1 and next(iter(found))[0]
    run(ranks, "folder = modal_magic.checkpoint_dir; folder.rmdir(); folder.parent.rmdir()", ranks=[0])
    told = run(
        ranks,
        """
        try:
            modal_magic.commit(), modal_magic.reload()
        except modal_magic.SessionError as error:
            print(error)
        """,
    )
    lacks = "there is nothing to commit: --volume NAME:/path gives a session a volume\n"
    assert {rank.output for rank in told.ranks.values()} == {lacks if ranks.backend_name == "modal" else ""}


def test_the_process_group_is_ready(ranks: Session) -> None:
    done = run(
        ranks,
        """
        import torch, torch.distributed as dist
        total = torch.tensor([float(rank)])
        dist.all_reduce(total)
        total.item()
        """,
    )
    assert results(done) == ["6.0"] * 4


def test_the_environment_is_that_of_torchrun(ranks: Session) -> None:
    done = run(
        ranks,
        """
        import os
        names = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE GROUP_RANK NODE_RANK MASTER_ADDR MASTER_PORT"
        names += " OMP_NUM_THREADS"
        [os.environ[name] for name in names.split()] + [os.environ["MODAL_I6PN_ENABLED"] in "01"]
        """,
    )
    found = [eval(text or "") for text in results(done)]
    per_node = ranks.shape.nproc_per_node
    for rank, (own, local, world, local_world, group, node, *_) in enumerate(found):
        assert [own, local, world, local_world] == [str(rank), str(rank % per_node), "4", str(per_node)]
        assert group == node == str(rank // per_node)
    assert len({(address, port) for *_, address, port, _threads, _i6pn in found}) == 1


def test_ddp_trains_and_gradients_agree(ranks: Session) -> None:
    done = run(
        ranks,
        """
        import torch, torch.distributed as dist
        from torch.nn.parallel import DistributedDataParallel as DDP
        ddp = DDP(torch.nn.Linear(4, 2))
        ddp(torch.full((3, 4), float(rank))).sum().backward()
        ddp.module.weight.grad.flatten().tolist()
        """,
    )
    assert len(set(results(done))) == 1
    assert eval(results(done)[0] or "")[0] == pytest.approx(3 * 1.5)


def test_ranks_draw_different_random_numbers(ranks: Session) -> None:
    done = run(
        ranks,
        """
        import random, numpy, torch
        random.random(), float(numpy.random.rand()), float(torch.rand(()))
        """,
    )
    drawn = [eval(text or "") for text in results(done)]
    assert all(len({row[column] for row in drawn}) == 4 for column in range(3))


def test_a_cell_can_run_on_some_ranks(ranks: Session) -> None:
    done = run(ranks, "print('here', rank)", ranks=[0, 2, 3])
    assert {number: view.output for number, view in done.ranks.items()} == {
        0: "here 0\n",
        2: "here 2\n",
        3: "here 3\n",
    }


def test_what_c_code_and_children_write_is_heard(ranks: Session) -> None:
    done = run(
        ranks,
        """
        import ctypes, os, subprocess
        os.write(1, b"from os.write\\n")
        subprocess.run(["echo", "from a child"])
        libc = ctypes.CDLL(None)
        libc.printf(b"from printf\\n")
        !echo from the shell
        """,
    )
    for text in outputs(done):
        assert text.splitlines() == ["from os.write", "from a child", "from printf", "from the shell"]


def test_stderr_is_told_from_stdout(ranks: Session) -> None:
    done = run(ranks, "import sys; print('out'); print('err', file=sys.stderr)")
    assert [done.ranks[rank].stdout for rank in EVERY] == ["out\n"] * 4
    assert [done.ranks[rank].stderr for rank in EVERY] == ["err\n"] * 4


def test_top_level_await_works_beside_asyncio_run(ranks: Session) -> None:
    done = run(
        ranks,
        """
        import asyncio
        async def inner():
            await asyncio.sleep(0.001)
            return 41
        await asyncio.sleep(0.001)
        asyncio.run(inner()) + await inner() - 40
        """,
    )
    assert results(done) == ["42"] * 4
    assert results(run(ranks, "_ + 1")) == ["43"] * 4


def test_magics_of_ipython_work_on_ranks(ranks: Session) -> None:
    assert results(run(ranks, "found = %env RANK\nfound")) == [f"'{rank}'" for rank in EVERY]
    assert all("Wall time" in text for text in outputs(run(ranks, "%%time\nsum(range(10))")))


def test_figures_and_html_come_as_such(ranks: Session) -> None:
    done = run(
        ranks,
        """
        import matplotlib.pyplot as plt
        from IPython.display import HTML, display
        plt.plot([1, 2])
        plt.show()
        display(HTML(f"<b>{rank}</b>"))
        """,
    )
    for rank in EVERY:
        kinds = [sorted(shown.data) for shown in done.ranks[rank].displays]
        assert ["image/png", "text/plain"] in kinds
        assert done.ranks[rank].displays[-1].data["text/html"] == f"<b>{rank}</b>"


def test_data_loader_workers_and_threads_work(ranks: Session) -> None:
    done = run(
        ranks,
        """
        import multiprocessing, threading, torch
        from torch.utils.data import DataLoader, TensorDataset
        loader = DataLoader(TensorDataset(torch.arange(8)), batch_size=2, num_workers=2)
        seen = sorted(int(x) for batch, in loader for x in batch)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            squares = pool.map(abs, [-1, -2])
        heard = []
        thread = threading.Thread(target=lambda: heard.append(rank))
        thread.start(); thread.join()
        seen, squares, heard == [rank]
        """,
    )
    assert results(done) == ["([0, 1, 2, 3, 4, 5, 6, 7], [1, 2], True)"] * 4


@pytest.mark.parametrize("ask", ["input('name? ')", "import getpass; getpass.getpass('name? ')"])
def test_a_rank_says_at_once_that_it_has_no_keyboard(ranks: Session, ask: str) -> None:
    with pytest.raises(RankFailed, match=r"NoKeyboardError: a rank has no keyboard.*name\?"):
        run(ranks, ask)


def test_an_error_after_which_the_cell_goes_on_is_shown(ranks: Session) -> None:
    done = run(ranks, "class Shy:\n    def __repr__(self): raise ValueError('no')\nprint('on')\nShy()")
    for rank in EVERY:
        assert done.ranks[rank].output.count(": no\n") == 1 and "on\n" in done.ranks[rank].output


def test_a_script_that_fails_on_one_rank_fails_its_cell_and_frees_the_others(ranks: Session, tmp_path: Path) -> None:
    script = tmp_path / "trains.py"
    script.write_text(
        "import sys, time, torch.distributed as dist\n"
        "dist.init_process_group()\n"
        "if len(sys.argv) > 1 and dist.get_rank() == 2: time.sleep(0.5); exec(sys.argv[1])\n"
        "dist.barrier()\n"
        "sys.exit()\n"
    )
    run(ranks, f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    for way in (script, "-m trains"):
        run(ranks, f"%run {way}")
        with pytest.raises(RankFailed, match=r"rank 2 raised ZeroDivisionError: .* at cell line 1. Ranks 0-1,3 were"):
            run(ranks, f"%run {way} 1/0")
        with pytest.raises(RankFailed, match=r"rank 2 ended with sys.exit\(3\) at cell line 1. Ranks 0-1,3 were"):
            run(ranks, f"%run {way} sys.exit(3)")
    run(ranks, "del sys.path[0]")


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("%%time\nkept = 1\n1 / 0", 3),
        ("\n%%time\n1 / 0", 3),
        ("%%capture shown\n\ndef fails():\n    1 / 0\nfails()", 4),
        ("%%capture\n%%time\n1 / 0", 3),
        ("  %%time\n  1 / 0", 2),
        ("%%bash\nexit 3", 1),
    ],
)
def test_what_fails_below_a_magic_fails_its_cell_with_its_line(ranks: Session, cell: str, line: int) -> None:
    with pytest.raises(RankFailed, match=rf"ranks 0-3 raised \w+: .* at cell line {line}\."):
        run(ranks, cell)
    assert results(run(ranks, "%%!\necho on")) == ["['on']"] * 4


def test_a_failure_that_is_captured_frees_the_others(ranks: Session) -> None:
    cell = "%%capture\nimport time\nif rank == 1: time.sleep(0.5); raise ValueError('me')\ntime.sleep(60)"
    with pytest.raises(RankFailed, match=r"rank 1 raised ValueError: me at cell line 3\. Ranks 0,2-3 were interrupted"):
        run(ranks, cell)
    done = run(ranks, "%%capture shown\nprint('captured')")
    assert outputs(done) == [""] * 4 and results(run(ranks, "shown.stdout")) == ["'captured\\n'"] * 4


def test_figures_are_asked_for_as_in_any_notebook(ranks: Session) -> None:
    run(ranks, "%matplotlib inline\nimport matplotlib.pyplot as plt\nif rank == 2: plt.plot([1, 2])")
    with pytest.raises(RankFailed, match="a rank has no screen for"):
        run(ranks, "get_ipython().enable_gui('qt')")


def test_streams_that_a_cell_has_closed_are_there_in_the_next_one(ranks: Session) -> None:
    run(ranks, "import sys\nsys.stdout.close()\nsys.stderr = None")
    assert outputs(run(ranks, "print('here')\nprint('there', file=sys.stderr)"))[0] in (
        "here\nthere\n",
        "there\nhere\n",
    )


def test_a_function_that_calls_itself_without_end_is_told_in_few_lines(ranks: Session) -> None:
    with pytest.raises(RankFailed, match="RecursionError: maximum recursion depth exceeded") as failed:
        run(ranks, "def again(): return again()\nagain()")
    error = failed.value.run.ranks[0].error
    assert error is not None and error.line == 1  # the innermost in the cell
    assert sum("more times" in line for line in error.traceback) == 1 and len(error.traceback) < 30


def test_a_rank_says_at_once_that_it_cannot_be_debugged_and_keeps_the_frames_of_an_error(ranks: Session) -> None:
    with pytest.raises(RankFailed, match="ZeroDivisionError"):
        run(ranks, "def halve(whole):\n    whole / 0\nhalve(42)")
    locals_there = "import inspect, sys\ninspect.getinnerframes(sys.last_traceback)[-1].frame.f_locals"
    assert results(run(ranks, locals_there)) == ["{'whole': 42}"] * 4
    for way in ("%debug", "breakpoint()\n1", "import pdb; pdb.set_trace()\n1", "dist.breakpoint(0)"):
        with pytest.raises(RankFailed, match=r"a rank has no keyboard .*, so it cannot use a debugger at cell line 2"):
            run(ranks, "import torch.distributed as dist\n" + way)


def test_a_debugger_that_brings_its_own_line_can_be_used(ranks: Session) -> None:
    done = run(
        ranks,
        """
        import io, pdb
        said = io.StringIO()
        whole = 42
        pdb.Pdb(stdin=io.StringIO("p whole + 1\\ncontinue\\n"), stdout=said).set_trace()
        "43" in said.getvalue()
        """,
    )
    assert results(done) == ["True"] * 4
    with pytest.raises(RankFailed, match=r"rank 2 raised ValueError: me at cell line 1. Ranks 0-1,3 were interrupted"):
        run(ranks, "if rank == 2: import time; time.sleep(0.5); raise ValueError('me')\nimport time; time.sleep(30)")


def test_spawning_a_function_of_a_cell_gets_a_clear_word(ranks: Session) -> None:
    with pytest.raises(RankFailed, match=r"train\(\) was defined in a cell"):
        run(ranks, "import torch.multiprocessing as mp\ndef train(i): pass\nmp.spawn(train, nprocs=1)")


SCRIPT = """
import argparse, os
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

def main():
    argparse.ArgumentParser().parse_args()
    {setup}
    model = DDP(torch.nn.Linear(3, 1))
    model(torch.ones(2, 3)).sum().backward()
    total = torch.ones(1)
    dist.all_reduce(total)
    print("world", int(total))
    dist.destroy_process_group()

if __name__ == "__main__":
    main()
"""
PLAIN = 'dist.init_process_group("gloo")'
TUTORIAL = """os.environ["MASTER_ADDR"] = "localhost"
    os.environ["MASTER_PORT"] = "12355"
    dist.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))"""


@pytest.mark.parametrize("setup", [PLAIN, TUTORIAL], ids=["plain", "with a MASTER_ADDR of its own"])
def test_a_script_for_torchrun_runs_unchanged_and_twice(ranks: Session, setup: str) -> None:
    for _ in range(2):
        assert outputs(run(ranks, SCRIPT.format(setup=setup))) == ["world 4\n"] * 4
    again = run(ranks, "total = torch.ones(1); dist.all_reduce(total); int(total)")
    assert results(again) == ["4"] * 4


def test_a_group_that_a_cell_left_open_serves_the_next_cell(ranks: Session) -> None:
    run(ranks, "import torch, torch.distributed as dist\ndist.init_process_group('gloo')")
    assert results(run(ranks, "t = torch.ones(1); dist.all_reduce(t); int(t)")) == ["4"] * 4
    assert outputs(run(ranks, SCRIPT.format(setup=PLAIN))) == ["world 4\n"] * 4


def test_a_second_init_in_one_cell_fails_as_in_torch(ranks: Session) -> None:
    with pytest.raises(RankFailed, match="twice"):
        run(ranks, "import torch.distributed as dist\ndist.init_process_group('gloo')\ndist.init_process_group('gloo')")
    assert results(run(ranks, "t = torch.ones(1); dist.all_reduce(t); int(t)")) == ["4"] * 4


def test_exit_is_what_sys_exit_is(ranks: Session) -> None:
    assert {rank.exit_code for rank in run(ranks, "exit()").ranks.values()} == {0}
    with pytest.raises(RankFailed, match=r"ended with sys.exit\(3\)"):
        run(ranks, "exit(3)")


def test_sys_exit_with_0_is_an_ordinary_end(ranks: Session) -> None:
    done = run(ranks, "import sys; sys.exit(0 if rank else None)")
    assert [done.ranks[rank].exit_code for rank in EVERY] == [0, 0, 0, 0]


@pytest.mark.parametrize(("code", "as_number"), [("3", 3), ("'no data'", 1), ("-1", 255)])
def test_sys_exit_with_another_code_is_a_failure_and_frees_the_others(
    ranks: Session, code: str, as_number: int
) -> None:
    run(ranks, "precious = rank")
    with pytest.raises(RankFailed) as failed:
        run(
            ranks,
            "import sys, time, torch, torch.distributed as dist\n"
            f"if rank == 2:\n    time.sleep(0.5); sys.exit({code})\ndist.barrier()",
        )
    assert str(failed.value).startswith(f"rank 2 ended with sys.exit({code}) at cell line 3. Ranks 0-1,3 were")
    assert failed.value.run.ranks[2].exit_code == as_number
    assert results(run(ranks, "t = torch.ones(1); dist.all_reduce(t); (precious, int(t))")) == [
        f"({rank}, 4)" for rank in EVERY
    ]


def test_an_exception_is_named_with_its_rank_and_line_and_nothing_is_lost(ranks: Session) -> None:
    run(ranks, "precious = rank")
    with pytest.raises(RankFailed) as failed:
        run(ranks, "x = 1\nif rank == 2:\n    {}['missing']\n")
    assert str(failed.value).startswith("rank 2 raised KeyError: 'missing' at cell line 3.")
    assert results(run(ranks, "precious")) == [str(rank) for rank in EVERY]


def test_a_rank_that_raises_frees_those_that_wait_for_it(ranks: Session) -> None:
    with pytest.raises(RankFailed, match="rank 1 raised ValueError: me at cell line 2"):
        run(ranks, "import torch, torch.distributed as dist\nif rank == 1: raise ValueError('me')\ndist.barrier()")
    assert results(run(ranks, "t = torch.ones(1); dist.all_reduce(t); int(t)")) == ["4"] * 4


def test_a_killed_rank_is_named_and_comes_back_empty(ranks: Session) -> None:
    run(ranks, "precious = rank")
    with pytest.raises(RankFailed) as failed:
        run(
            ranks,
            """
            import os, signal, torch, torch.distributed as dist
            print("last words", flush=True)
            if rank == 1: os.kill(os.getpid(), signal.SIGKILL)
            dist.barrier()
            """,
        )
    assert str(failed.value).startswith("rank 1 was killed by SIGKILL.")
    assert failed.value.run.ranks[1].output == "last words\n"
    assert results(run(ranks, "globals().get('precious')")) == ["0", None, "2", "3"]
    done = run(ranks, "import torch, torch.distributed as dist\nt = torch.ones(1); dist.all_reduce(t); int(t)")
    assert results(done) == ["4"] * 4


def test_a_flood_stays_whole_in_the_log(ranks: Session) -> None:
    done = run(ranks, "for i in range(20000): print(f'line {i} of rank {rank}')", output_limit=100_000)
    assert 0 < sum(len(text) for text in outputs(done)) <= 100_000
    assert done.view.withheld > 1_000_000
    lines = ranks.logs()
    for rank in EVERY:
        own = [text for number, _, text in lines if number == rank]
        assert own == [f"line {i} of rank {rank}" for i in range(20000)]
    assert [text for _, _, text in ranks.logs([2], last=1)] == ["line 19999 of rank 2"]


def test_the_start_of_a_session_says_what_it_spent_its_time_on(ranks: Session) -> None:
    ranks.run("pass").wait()
    stages = {(stage.name, stage.node): stage.seconds for stage in ranks.stages}
    own = {"build", "cold start", "queue"} if ranks.backend_name == "modal" else {"zygote"}
    assert {name for name, _ in stages} == {*own, "gateway", "fork", "rendezvous", "first cell"}
    nodes = {node for name, node in stages if name in ("queue", "cold start")}
    assert nodes == (set(range(ranks.shape.replicas)) if ranks.backend_name == "modal" else set())
    assert all(seconds is not None and seconds >= 0.0 for seconds in stages.values())
