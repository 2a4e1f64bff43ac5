"""Cells that fail, in a real kernel: the true error first, with its rank, its line, and in time."""

from __future__ import annotations

import re
import time

import pytest

from tests.support.notebook import Notebook

pytestmark = pytest.mark.kernel

FOUR = "%%modal_distributed --replicas 4 --backend local\n"
ALL_REDUCE = "\nimport torch, torch.distributed as dist\nt = torch.ones(1); dist.all_reduce(t)\nprint(int(t))"


def plain(text: str) -> str:
    """A text without ANSI colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_the_remote_traceback_has_the_lines_of_the_notebook_s_gutter(book: Notebook) -> None:
    shown = book.run(FOUR + "\n\ndef f():\n    return 1 / 0\n\nif rank == 2:\n    f()\n")
    assert shown.error_name == "RankFailed"
    assert shown.error.startswith("rank 2 raised ZeroDivisionError: division by zero at cell line 5.")
    text = plain(shown.traceback)
    assert "[rank 2]" in text and "----> 5     return 1 / 0" in text and "----> 8     f()" in text
    assert "modal_magic/" not in text


def test_the_traceback_names_the_cell_as_the_notebook_numbers_it(fresh_book: Notebook) -> None:
    fresh_book.run("1")
    fresh_book.run("2")
    assert "Cell In[4], line 2" in plain(fresh_book.run(FOUR + "1 / 0").traceback)


def test_equal_tracebacks_of_several_ranks_are_shown_once(book: Notebook) -> None:
    text = plain(book.run(FOUR + "import torch.distributed as dist; dist.barrier()\nif rank: undefined_name").traceback)
    assert text.count("NameError                ") == 1
    assert "[ranks 1-3]" in text and "ranks 1-3 raised NameError" in text


def test_a_rank_that_raises_before_a_collective_is_blamed_and_the_others_are_free(book: Notebook) -> None:
    book.run(FOUR + "precious = rank" + ALL_REDUCE)
    shown = book.run(
        FOUR
        + "if rank == 1: import time; time.sleep(0.5); raise ValueError('it was me')\ndist.all_reduce(torch.ones(1))\n"
    )
    assert shown.error.startswith("rank 1 raised ValueError: it was me at cell line 2.")
    assert re.search(r"[Rr]anks 0,2-3 were interrupted in all_reduce at cell line 3", shown.error)
    assert "Connection" not in shown.error
    assert shown.seconds < 2.5
    after = book.run("%%modal_distributed\nprint(precious)" + ALL_REDUCE)
    assert after.lines == sorted([f"[rank {rank}] {rank}" for rank in range(4)] + [f"[rank {r}] 4" for r in range(4)])


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1 was killed by SIGKILL"),
        ("os._exit(7)", "rank 1 ended its process with exit code 7"),
        ("ctypes.string_at(0)", "rank 1 crashed with SIGSEGV in string_at at cell line 5."),
    ],
)
def test_a_rank_that_dies_is_named_with_its_cause_at_once(book: Notebook, how: str, cause: str) -> None:
    book.run(FOUR + "precious = rank\nimport ctypes, os, signal, time")
    shown = book.run(
        "%%modal_distributed\nimport ctypes, os, signal, time\n"
        f"if rank == 1:\n    print('at', time.time(), flush=True)\n    {how}\ntime.sleep(60)"
    )
    assert shown.error.startswith(cause)
    assert "started again without variables" in shown.error and "keep their own" in shown.error
    assert shown.when(cause) - shown.when("[rank 1] at") < 1
    after = book.run("%%modal_distributed\nprint(globals().get('precious'))" + ALL_REDUCE)
    assert "[rank 1] None" in after.lines and "[rank 2] 2" in after.lines and "[rank 1] 4" in after.lines


def test_a_rank_that_dies_while_much_is_sent_to_it_costs_the_others_nothing(book: Notebook) -> None:
    book.run(FOUR + "precious = rank\nimport os, signal, subprocess, time, torch, torch.distributed as dist")
    shown = book.run(
        """%%modal_distributed
much = torch.ones(8_000_000)
dist.barrier()
if rank == 2:
    works = [dist.irecv(torch.empty_like(much), source) for source in (0, 1, 3)]
    subprocess.Popen(f"sleep 1.5; kill -KILL {os.getpid()}", shell=True, start_new_session=True)
    os.kill(os.getpid(), signal.SIGSTOP)  # it takes no more of what is on its way
else:
    time.sleep(0.2)
    dist.send(much, 2)"""
    )
    assert shown.error == (
        "rank 2 was killed by SIGKILL. Ranks 0-1,3 were interrupted in send at cell line 10. Rank 2 is started again "
        "without variables; ranks 0-1,3 keep their own."
    )
    after = book.run("%%modal_distributed\nprint(globals().get('precious'))" + ALL_REDUCE)
    assert "[rank 2] None" in after.lines and "[rank 0] 0" in after.lines and "[rank 1] 4" in after.lines


def test_a_rank_that_is_stuck_as_the_group_is_formed_anew_does_not_keep_the_others(book: Notebook) -> None:
    book.run(
        FOUR + "import ctypes, torch, torch.distributed as dist\nprecious = rank\n"
        "if rank == 1: dist.destroy_process_group = lambda: ctypes.PyDLL(None).sleep(1000)"
    )
    book.run("%%modal_distributed\nif rank == 0: 1 / 0\ndist.all_reduce(torch.ones(1))")
    after = book.run("%%modal_distributed\nprint(globals().get('precious'))" + ALL_REDUCE)
    assert "[rank 1] None" in after.lines and "[rank 2] 2" in after.lines and "[rank 1] 4" in after.lines
    assert "rank 1 was stuck in C code as its group was formed anew and was killed" in after.stdout + after.stderr


def test_what_the_network_says_of_a_dead_rank_is_one_sentence_with_the_collective(book: Notebook) -> None:
    book.run(FOUR + "import os, signal, time, torch, torch.distributed as dist")
    shown = book.run(
        "%%modal_distributed\nif rank == 1:\n    time.sleep(1); os.kill(os.getpid(), signal.SIGKILL)\ndist.barrier()"
    )
    assert re.fullmatch(
        r"rank 1 was killed by SIGKILL\.( Ranks? [0-3,-]+ (lost (its|their) connection|(was|were) interrupted) in "
        r"barrier at cell line 4\.)+ Rank 1 is started again without variables; ranks 0,2-3 keep their own\.",
        shown.error,
    ), shown.error


def test_a_rank_that_leaves_with_a_code_is_named_and_the_others_are_free(book: Notebook) -> None:
    book.run(FOUR + "precious = rank\nimport torch, torch.distributed as dist")
    shown = book.run(
        "%%modal_distributed\nimport sys\nif rank == 2:\n    import time; time.sleep(0.5); sys.exit(1)\ndist.barrier()"
    )
    assert shown.error == (
        "rank 2 ended with sys.exit(1) at cell line 4. Ranks 0-1,3 were interrupted in barrier at cell line 5. "
        "Variables are kept on all ranks."
    )
    assert plain(shown.traceback) == f"RankFailed: {shown.error}"
    assert shown.seconds < 2.5
    assert "[rank 2] 2" in book.run("%%modal_distributed\nprint(precious)").lines


def test_a_rank_that_was_started_anew_says_so_when_it_misses_a_name(book: Notebook) -> None:
    book.run(FOUR + "precious = rank")
    assert "ranks 2-3 started anew" in book.run("%modal_restart --rank 2-3").stdout
    shown = book.run("%%modal_distributed\nimport torch.distributed as dist; dist.barrier(); print(precious)")
    assert shown.lines == ["[rank 0] 0", "[rank 1] 1"]
    assert shown.error.startswith(
        "ranks 2-3 raised NameError: name 'precious' is not defined (the rank was started anew, and lost what it had "
        "before: if that was among it, make it again) at cell line 2."
    )
    assert book.run("%%modal_distributed" + ALL_REDUCE).lines == [f"[rank {rank}] 4" for rank in range(4)]
    assert "4 fresh ranks" in book.run("%modal_restart").stdout
    assert (
        "ranks 0-3 raised NameError"
        in book.run("%%modal_distributed\nimport torch.distributed as dist; dist.barrier(); print(precious)").error
    )
    book.run("mine = 1")
    shown = book.run("%%modal_distributed\nprint(mine)")
    hint = "The notebook has `mine`, its ranks do not: define it in a %%modal_distributed cell."
    assert shown.error.endswith(hint) and shown.traceback.endswith(hint)


def test_a_restart_names_ranks_that_are_there(book: Notebook) -> None:
    book.run(FOUR + "pass")
    assert book.run("%modal_restart --rank 4").error_name == "UsageError"


def test_a_rank_that_may_have_no_more_memory_raises_as_python_does(book: Notebook) -> None:
    source = (
        "import resource\nbefore = resource.getrlimit(resource.RLIMIT_AS)\nprecious = rank\ntry:\n"
        "    if rank == 1: resource.setrlimit(resource.RLIMIT_AS, (2**33, before[1]))\n    kept = bytearray(2**34)\n"
        "finally:\n    resource.setrlimit(resource.RLIMIT_AS, before)"
    )
    shown = book.run(FOUR + source.replace("kept =", "kept = rank == 1 and"))
    assert shown.error.startswith("rank 1 raised MemoryError at cell line 7.")
    assert book.run("%%modal_distributed\nprint(precious)").lines == [f"[rank {rank}] {rank}" for rank in range(4)]


def test_what_was_printed_before_a_crash_is_shown(book: Notebook) -> None:
    shown = book.run(FOUR + "import os\nprint('written before')\nif rank == 3: os._exit(1)")
    assert shown.lines == [f"[rank {rank}] written before" for rank in range(4)]


def test_a_ddp_model_trains_on_after_a_failure(book: Notebook) -> None:
    model = "from torch.nn.parallel import DistributedDataParallel as DDP\nddp = DDP(torch.nn.Linear(2, 1))\n"
    book.run(FOUR + "import torch, torch.distributed as dist\n" + model)
    assert book.run("%%modal_distributed\nif rank == 0: 1 / 0\ndist.barrier()").error
    shown = book.run(
        "%%modal_distributed\nddp.zero_grad()\nddp(torch.full((1, 2), float(rank))).sum().backward()\n"
        "print(ddp.module.weight.grad.tolist())"
    )
    assert shown.lines == [f"[rank {rank}] [[1.5, 1.5]]" for rank in range(4)], shown.error


def test_an_exception_whose_text_cannot_be_made_does_no_harm(book: Notebook) -> None:
    source = "class Odd(Exception):\n    def __str__(self): raise RuntimeError('no text')\nraise Odd()"
    assert "Odd: <its text could not be made: RuntimeError> at cell line 4" in book.run(FOUR + source).error
    assert book.run("%%modal_distributed\nprint(rank)").lines == [f"[rank {rank}] {rank}" for rank in range(4)]


def test_the_cell_after_a_failure_needs_no_restart(book: Notebook) -> None:
    for _ in range(3):
        assert book.run(FOUR + "1 / 0").error_name == "RankFailed"
        assert book.run("%%modal_distributed" + ALL_REDUCE).lines == [f"[rank {rank}] 4" for rank in range(4)]


def test_a_failure_is_told_while_the_others_are_still_being_freed(book: Notebook) -> None:
    source = (
        "import ctypes, time, torch.distributed as dist; dist.barrier(); time.sleep(rank == 1)\n"
        "if rank == 1:\n    print('at', flush=True)\n    raise ValueError('it was me')\n"
        "ctypes.PyDLL(None).sleep(1000)"  # holds the GIL: it must be killed
    )
    book.run(FOUR + "precious = rank")
    shown = book.run(FOUR + source)
    told = "rank 1 raised ValueError: it was me at cell line 5. Freeing ranks 0,2-3."
    assert shown.when(told) - shown.when("[rank 1] at") < 2
    assert shown.seconds < 6
    assert shown.error.startswith("rank 1 raised ValueError: it was me at cell line 5.")
    assert "Ranks 0,2-3 are started again without variables; rank 1 keeps its own" in shown.error
    assert "[rank 1] 1" in book.run(FOUR + "print(globals().get('precious'))").lines


def test_a_group_that_went_with_a_failure_is_said_to_be_gone(book: Notebook) -> None:
    book.run(FOUR + "import torch, torch.distributed as dist\npair = dist.new_group([0, 1])")
    assert book.run(FOUR + "if rank == 3: 1 / 0\ndist.barrier()").error_name == "RankFailed"
    shown = book.run(FOUR + "if rank < 2: dist.all_reduce(torch.ones(1), group=pair)")
    assert "formed anew after a failure: make this one again) at cell line 2" in shown.error, shown.error


def test_a_second_interrupt_does_no_harm(book: Notebook) -> None:
    began = time.monotonic()
    book.run(FOUR + "precious = rank")
    sent = book.send(
        FOUR + "print('begun', flush=True)\nimport time\ntry:\n    time.sleep(60)\nfinally:\n    time.sleep(0.5)"
    )
    book.wait_for(sent, "[rank 3] begun", began)
    for _ in range(3):
        book.manager.interrupt_kernel()
    shown = book.collect(sent, began)
    assert shown.error_name == "RunInterrupted"
    assert book.run(FOUR + "print(precious)").lines == [f"[rank {rank}] {rank}" for rank in range(4)]
