"""What a gateway does with what its nodes and clients say, by hand: no socket, no process, a clock that is set."""

from __future__ import annotations

from pathlib import Path

from modal_magic import protocol as p
from tests.test_gateway_noise import Rig, joined


def attached(folder: Path) -> Rig:
    """A gateway with its two nodes and one client."""
    rig = Rig(folder)
    for node_rank in (0, 1):
        rig.node(node_rank, p.encode(joined(node_rank)))
    rig.client(p.encode(p.Attach(p.VERSION, "client", None)))
    return rig


def logged(rig: Rig) -> list[p.Event]:
    """All events of the gateway's log."""
    records, _ = rig.gateway.log.since(0, 10**9)
    return [p.decode_record(record).event for record in records]


def test_text_and_rich_output_of_a_node_that_fell_silent_are_kept(tmp_path: Path) -> None:
    rig = attached(tmp_path)
    for _ in range(20):
        rig.node(0, p.encode(p.Beat()))
        rig.turn(p.SILENCE_SECONDS / 4)
    assert any(isinstance(event, p.Lost) and event.rank == 2 for event in logged(rig))
    text = p.Output(2, "a", "stdout", "meanwhile\n")
    figure = p.Display(3, "a", "display", {"text/plain": "<Figure>"}, {})
    ended = p.Finished(2, "a", 1.0, p.Health())
    rig.node(1, p.encode(p.Happened([text, figure, ended])))
    found = logged(rig)
    assert text in found
    assert figure in found
    assert ended not in found
    rig.gateway.close("over")
