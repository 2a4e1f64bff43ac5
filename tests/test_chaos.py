"""Real faults, drawn by seed, in one session of a real kernel: after each, all is as good as before."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.faults import Fault, draw
from tests.chaos.parts import ENDS, ON_NODES
from tests.chaos.session import Chaos
from tests.conftest import STOP_OWN
from tests.support.notebook import notebook

pytestmark = pytest.mark.kernel

FAULTS = 24


@pytest.fixture(scope="module")
def chaos(runtime_folder: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    with notebook() as book:
        book.run("%load_ext modal_magic")
        made = Chaos(book, str(tmp_path_factory.mktemp("stacks")))
        made.set_up()
        yield made
        book.run(STOP_OWN)


@pytest.mark.parametrize("number", range(FAULTS))
def test_after_a_fault_all_is_as_good_as_before(chaos: Chaos, number: int) -> None:
    fault = draw(random.Random(number))
    print(fault.name)
    chaos.suffer(fault)


@pytest.mark.parametrize("kind", [*ON_NODES, *ENDS], ids=lambda kind: str(kind.__name__))
def test_when_a_part_of_the_session_dies_what_can_go_on_does(
    chaos: Chaos, kind: Callable[[random.Random], Fault]
) -> None:
    fault = kind(random.Random(1))
    print(fault.name)
    chaos.suffer(fault)
