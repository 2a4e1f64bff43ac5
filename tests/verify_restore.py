"""`make verify-restore`: memory that is really restored, which needs CRIU 4 or newer, of another Debian than 12."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.modal_emulator.dumps import usable
from tests.modal_emulator.handle import Handle
from tests.support.modal_service import modal_book
from tests.support.notebook import Notebook

__all__ = ["modal_book"]

pytestmark = [pytest.mark.timeout(300), pytest.mark.namespaces, pytest.mark.kernel]


def test_containers_that_are_restored_from_one_memory_have_it_and_draw_numbers_of_their_own(
    modal_book: Notebook, modal_service: Handle, tmp_path: Path
) -> None:
    assert usable(), "CRIU 4 or newer must be in the path of root"
    (tmp_path / "stamped.py").write_text("import uuid\nstamp = uuid.uuid4().hex\n")
    modal_book.run(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})")
    line = "%%modal_distributed --replicas {} --backend modal --include stamped --preload stamped\n"
    cell = (
        "import random, numpy, torch, torch.distributed as dist, stamped\ntotal = torch.ones(1)\n"
        "dist.all_reduce(total)\n"
        "print(stamped.stamp, int(total), random.random(), numpy.random.rand(), torch.rand(()).item())"
    )
    told = []
    modal_service.ask("set", settings={"snapshot": "dump"})
    try:
        for nodes in (1, 3):
            shown = modal_book.run(line.format(nodes) + cell, 90)
            told += [line.split()[2:] for line in shown.lines if line.startswith("[rank")]
            assert "snapshot" not in shown.stdout, shown.stdout + modal_service.logs()
            assert modal_book.run("%modal_stop").error == ""
    finally:
        modal_service.ask("set", settings={"snapshot": "continue"})
    assert [total for _, total, *_ in told] == ["1", "3", "3", "3"]
    assert len({stamp for stamp, *_ in told}) == 1
    assert len({number for _, _, *numbers in told for number in numbers}) == 4 * 3
