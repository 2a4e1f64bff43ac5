"""What a gateway does with what its nodes and clients say, by hand: no socket, no process, a clock that is set."""

from __future__ import annotations

from pathlib import Path

from modal_magic import protocol as p
from modal_magic.gateway.gateway import FAREWELL_SECONDS
from modal_magic.gateway.known_runs import RUNS
from modal_magic.live import CURVES
from tests.test_gateway_noise import Rig, Sink, joined


def attached(folder: Path) -> Rig:
    """A gateway with its two nodes and one client."""
    rig = Rig(folder)
    for node_rank in (0, 1):
        rig.node(node_rank, p.encode(joined(node_rank)))
    rig.client(p.encode(p.Attach(p.VERSION, "client", None)))
    return rig


def told(rig: Rig) -> list[p.LiveEvent]:
    """What changes all the time, as far as the client was told."""
    replies = [p.decode_reply(frames[1]) for frames in rig.clients.sent if len(frames) == 2]
    return [event for reply in replies if isinstance(reply, p.Live) for event in reply.events]


def logged(rig: Rig) -> list[p.Event]:
    """All events of the gateway's log."""
    records, _ = rig.gateway.log.since(0, 10**9)
    return [p.decode_record(record).event for record in records]


def test_what_was_said_before_anybody_came_is_for_the_first_kernel_that_does(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.node(0, p.encode(joined(0)))
    rig.node(0, p.encode(p.Happened([p.Notice("node 0 has come")])))

    def heard(client: bytes, watches: bool = False) -> list[str]:
        rig.clients.sent.clear()
        rig.gateway.from_client(client, [p.encode(p.Attach(p.VERSION, client.decode(), None, watches=watches))])
        rig.turn(0.1)
        batches = [frames[2] for frames in rig.clients.sent if len(frames) == 3]
        events = [record.event for batch in batches for record in p.decode_records(batch)]
        return [event.text for event in events if isinstance(event, p.Notice)]

    assert heard(b"panel", watches=True) == []
    assert heard(b"kernel") == ["node 0 has come"]
    assert heard(b"another") == []
    rig.gateway.close("over")


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


def test_of_metrics_by_ever_new_names_a_bounded_number_is_kept_and_that_is_said_once(tmp_path: Path) -> None:
    rig = attached(tmp_path)
    names = [f"loss of step {number}" for number in range(CURVES + 50)]
    for rank in (0, 1):
        rig.node(0, p.encode(p.Happened([p.Metric(rank, "a", name, 1.0, 0.0) for name in names])))
    rig.node(0, p.encode(p.Happened([p.Metric(0, "a", names[0], 2.0, 1.0)])))
    rig.turn(1.0)
    assert {len(gauges.curves) for gauges in rig.gateway.live.ranks.values()} == {CURVES}
    assert len(told(rig)) == 2 * CURVES + 1
    assert told(rig)[-1] == p.Metric(0, "a", names[0], 2.0, 1.0)
    said = [event.text for event in logged(rig) if isinstance(event, p.Notice)]
    assert [f"more than {CURVES} metrics" in text for text in said] == [True]
    rig.gateway.close("over")


def test_of_runs_that_are_long_over_the_gateway_forgets_how_much_they_wrote(tmp_path: Path) -> None:
    rig = attached(tmp_path)
    for number in range(1, RUNS + 10):
        rig.client(*p.numbered(number, p.Run(p.Execute(f"run-{number}", "pass", 1, 1), None, None)))
        rig.client(*p.numbered(number, p.InterruptRun(f"run-{number}")))
    assert len(rig.gateway.flows) == RUNS
    assert f"run-{RUNS + 9}" in rig.gateway.flows
    rig.gateway.close("over")


class Narrow(Sink):
    """A door behind which somebody takes so many messages and no more."""

    room = 1_000_000

    def send(self, identity: bytes, *frames: bytes) -> bool:
        self.room -= 1
        return self.room >= 0 and super().send(identity, *frames)


def stopped(folder: Path) -> tuple[Rig, Narrow]:
    """A gateway that is told to stop while the queue of its client is full, and the door to that client."""
    rig = attached(folder)
    door = rig.gateway.clients._door = Narrow()
    for number in (1, 2):
        rig.client(*p.numbered(number, p.Run(p.Execute(f"run-{number}", "pass", 1, 1), None, None)))
    door.room = 0
    rig.client(*p.numbered(3, p.Stop("it was stopped")))
    for node_rank in (0, 1):
        rig.node(node_rank, p.encode(p.Left("stopped")))
    return rig, door


def test_a_gateway_ends_when_a_client_whose_queue_was_full_has_its_last_word(tmp_path: Path) -> None:
    rig, door = stopped(tmp_path)
    rig.turn(0.5)
    assert rig.gateway.ended is None
    door.room = 1_000_000
    rig.turn(0.1)
    assert rig.gateway.ended == "it was stopped"
    rig.gateway.close("it was stopped")
    goodbye = p.encode(p.Closed("it was stopped"))
    assert [frames[1] == goodbye for frames in door.sent[-2:]] == [False, True]


def test_a_gateway_that_ends_does_not_wait_for_ever_for_a_client(tmp_path: Path) -> None:
    rig, _ = stopped(tmp_path)
    rig.client(p.encode(p.Beat()))
    rig.turn(FAREWELL_SECONDS)
    assert rig.gateway.ended == "it was stopped"
    rig.gateway.close("it was stopped")
