"""Both ends of the link between client and gateway, over a simulated one that loses, doubles, delays and reorders."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from modal_magic import protocol as p
from modal_magic.gateway.clients import Clients
from modal_magic.gateway.log import EventLog
from modal_magic.links.conversation import Conversation
from modal_magic.live import LiveTable

TICK = 0.05


@dataclass(slots=True)
class Network:
    """What is on its way, by when it arrives. `faults` is how often something happens to a message."""

    chance: random.Random
    faults: float
    now: float = 0.0
    to_gateway: list[tuple[float, list[bytes]]] = field(default_factory=list)
    to_client: list[tuple[float, list[bytes]]] = field(default_factory=list)
    cut: bool = False

    def put(self, way: list[tuple[float, list[bytes]]], frames: list[bytes]) -> None:
        if self.cut or self.chance.random() < self.faults:
            return
        for _ in range(2 if self.chance.random() < self.faults else 1):
            late = self.chance.random() * 2 if self.chance.random() < self.faults else 0.0
            way.append((self.now + late, frames))

    def arrived(self, way: list[tuple[float, list[bytes]]]) -> list[list[bytes]]:
        here = sorted((entry for entry in way if entry[0] <= self.now), key=lambda entry: entry[0])
        for entry in here:
            way.remove(entry)
        return [frames for _, frames in here]


class Bench:
    """A client and the clients' side of a gateway, joined by a network."""

    def __init__(self, path: Path, seed: int = 0, faults: float = 0.0) -> None:
        self.network = Network(random.Random(seed), faults)
        self.log = EventLog(path, 10**9)
        self.clients = Clients(self, self.log, LiveTable())
        self.taken: list[p.Request] = []
        self.records: list[p.Record] = []
        self.replies: list[p.Reply] = []
        self.next_beat = 0.0
        self.heard = 0.0
        self.going: list[str] = []
        self.conversation = self.new_client("client")

    def new_client(self, name: str) -> Conversation:
        return Conversation(
            name,
            lambda frames: self.network.put(self.network.to_gateway, [name.encode(), *frames]),
            self.records.append,
            self.replies.append,
        )

    # -- the gateway's door

    def send(self, identity: bytes, *frames: bytes) -> bool:
        if self.network.cut:
            return False
        self.network.put(self.network.to_client, [identity, *frames])
        return True

    def waiting(self) -> bool:
        return False

    # -- time

    def say(self, text: str, run: str = "a") -> None:
        """Have something recorded."""
        self.log.append(p.Output(0, run, "stdout", text), 0.0)

    def tick(self) -> None:
        self.network.now += TICK
        now = self.network.now
        for identity, *frames in self.network.arrived(self.network.to_gateway):
            request = self.clients.take(identity, frames, now)
            if isinstance(request, p.Attach):
                self.clients.attach(
                    identity, request, p.Attached(p.VERSION, "s", 1, 0, 0, "ready", []), self.going, now
                )
            elif request is not None:
                self.taken.append(request)
                if isinstance(request, p.Restart | p.SetLimits):
                    self.clients.reply(identity, p.Done(request.request))
                elif isinstance(request, p.AskLog):
                    self.clients.reply(identity, p.LogPage(request.request, "", [], None, 0, 0))
        self.clients.broadcast()
        if now >= self.next_beat:
            self.next_beat = now + p.BEAT_SECONDS
            self.clients.beat(now, 0.0)
            if now - self.heard > p.SILENCE_SECONDS and self.conversation.attached_at + 1.0 < now:
                self.conversation.attach(now)
            self.network.put(self.network.to_gateway, [self.conversation.client.encode(), p.encode(p.Beat())])
        for identity, *frames in self.network.arrived(self.network.to_client):
            if identity == self.conversation.client.encode():
                self.heard = now
                self.conversation.take(frames, now)

    def ticks(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self.tick()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.conversation.attach(0.0)
    made.ticks(0.2)
    yield made
    made.log.close()


def run(name: str) -> p.Run:
    return p.Run(p.Execute(name, "pass", 1, 1), None, None)


def texts(records: list[p.Record]) -> list[str]:
    return [record.event.text for record in records if isinstance(record.event, p.Output)]


@pytest.mark.parametrize("seed", range(150))
def test_whatever_the_link_does_requests_are_taken_once_and_records_come_once_in_order(
    tmp_path: Path, seed: int
) -> None:
    bench = Bench(tmp_path, seed, faults=seed % 10 / 20)
    chance = random.Random(seed + 1000)
    bench.conversation.attach(0.0)
    asked: list[p.Request] = []
    said: list[str] = []
    for number in range(120):
        if chance.random() < 0.2:
            request: p.Numbered = chance.choice(
                [
                    run(f"run-{number}"),
                    p.Restart(f"r-{number}", None),
                    p.SetLimits(f"s-{number}", {"lease": 1.0}),
                    p.AskLog(f"l-{number}", None, None, 0),
                ]
            )
            asked.append(request)
            bench.conversation.ask(request, bench.network.now)
        if chance.random() < 0.3:
            said.append(f"line {number}")
            bench.say(said[-1])
        if chance.random() < 0.02:
            bench.network.cut = not bench.network.cut
        bench.ticks(chance.choice([TICK, TICK, 0.3]))
    bench.network.cut, bench.network.faults = False, 0.0
    bench.ticks(8)
    once = [request for request in bench.taken if not isinstance(request, p.AskLog)]
    assert once == [request for request in asked if not isinstance(request, p.AskLog)]
    answered = {reply.request for reply in bench.replies if isinstance(reply, p.Done | p.LogPage)}
    assert answered == {request.request for request in asked if isinstance(request, p.Restart | p.SetLimits | p.AskLog)}
    numbers = [record.sequence for record in bench.records]
    assert numbers == list(range(len(said) - len(numbers) + 1, len(said) + 1))
    assert texts(bench.records) == said[len(said) - len(numbers) :]
    bench.log.close()


def test_a_client_that_was_forgotten_goes_on_where_it_was(bench: Bench) -> None:
    bench.network.cut = True
    for text in "xyz":
        bench.say(text)
    bench.conversation.ask(run("a"), bench.network.now)
    bench.ticks(5)
    assert len(bench.clients) == 0
    bench.network.cut = False
    bench.ticks(3)
    assert len(bench.clients) == 1
    assert texts(bench.records) == ["x", "y", "z"]
    assert bench.taken == [run("a")]


def test_a_askedthat_comes_again_out_of_turn_or_with_no_number_is_not_taken(bench: Bench) -> None:
    first = p.numbered(1, run("a"))
    for frames in (first, first, p.numbered(3, run("c")), p.numbered(0, run("d")), [p.encode(run("e"))], first):
        bench.network.put(bench.network.to_gateway, [b"client", *frames])
    bench.ticks(0.2)
    assert bench.taken == [run("a")]


def test_a_run_whose_id_is_known_is_not_taken_again(bench: Bench) -> None:
    bench.network.put(bench.network.to_gateway, [b"client", *p.numbered(1, run("a"))])
    bench.network.put(bench.network.to_gateway, [b"client", *p.numbered(2, run("a"))])
    bench.network.put(bench.network.to_gateway, [b"client", *p.numbered(3, run("b"))])
    bench.ticks(0.2)
    assert bench.taken == [run("a"), run("b")]


def test_a_gateway_that_was_held_up_calls_nobody_silent(bench: Bench) -> None:
    bench.network.now += 60
    assert not bench.clients.beat(bench.network.now, 60.0)
    assert len(bench.clients) == 1
    assert bench.clients.beat(bench.network.now + 10, 0.0)
    assert len(bench.clients) == 0


def test_a_client_that_is_away_is_no_longer_counted_as_there(bench: Bench) -> None:
    assert bench.clients.reachable == 1
    bench.network.cut = True
    bench.ticks(0.5)
    assert (len(bench.clients), bench.clients.reachable) == (1, 0)


# ---- a new client ----------------------------------------------------------------------------------------------------


def started(bench: Bench, name: str) -> None:
    """Have a run begin that the client has asked for."""
    bench.conversation.ask(run(name), bench.network.now)
    bench.ticks(0.1)
    bench.log.append(p.Submitted(name, [0], 1, "pass"), 0.0)
    bench.going = [name]


def ended(bench: Bench, name: str) -> None:
    bench.log.append(p.RunEnded(name, "done", [], 1.0), 0.0)
    bench.clients.runs.ended(name)
    bench.going = []


def show(bench: Bench, name: str, rest: list[tuple[int, p.Stream, str]] | None = None) -> None:
    """Have the client say that it has shown all there is."""
    shown = p.Shown(name, bench.log.newest, rest or [])
    bench.network.put(bench.network.to_gateway, [b"client", p.encode(shown)])


def come(bench: Bench) -> p.Attached:
    """Have another client take the place of the one that was there."""
    bench.records.clear()
    bench.replies.clear()
    bench.conversation = bench.new_client("second")
    bench.conversation.attach(bench.network.now)
    bench.ticks(0.5)
    [welcome] = [reply for reply in bench.replies if isinstance(reply, p.Attached)]
    return welcome


def test_a_new_client_is_sent_nothing_that_is_over(bench: Bench) -> None:
    started(bench, "a")
    bench.say("old")
    ended(bench, "a")
    show(bench, "a")
    bench.ticks(0.2)
    assert come(bench).runs == []
    bench.say("new")
    bench.ticks(0.2)
    assert texts(bench.records) == ["new"]


def test_a_new_client_is_sent_what_was_not_shown_of_a_run_that_goes_on(bench: Bench) -> None:
    started(bench, "a")
    bench.say("shown")
    bench.ticks(0.2)
    show(bench, "a", [(0, "stderr", "half a li")])
    bench.ticks(0.2)
    bench.say("missed")
    welcome = come(bench)
    assert welcome.runs == [p.RunKnown("a", 1, False, 2, [(0, "stderr", "half a li")])]
    bench.say("live")
    ended(bench, "a")
    bench.ticks(0.2)
    assert texts(bench.records) == ["missed", "live"]
    kinds = [type(record.event) for record in bench.records]
    assert kinds == [p.Submitted, p.Output, p.Output, p.RunEnded]


def test_a_new_client_is_told_of_a_run_that_ended_with_nobody_there(bench: Bench) -> None:
    started(bench, "a")
    bench.network.cut = True
    bench.say("missed")
    ended(bench, "a")
    bench.ticks(4)
    bench.network.cut = False
    assert [known.run for known in come(bench).runs] == ["a"]
    assert texts(bench.records) == ["missed"]


def test_what_ended_while_its_own_client_is_there_is_no_business_of_another(bench: Bench) -> None:
    started(bench, "a")
    bench.say("mine")
    ended(bench, "a")
    bench.ticks(0.2)
    assert come(bench).runs == []
    assert texts(bench.records) == []


def test_old_notices_are_not_said_again(bench: Bench) -> None:
    bench.log.append(p.Notice("long ago"), 0.0)
    started(bench, "a")
    bench.log.append(p.Notice("seen"), 0.0)
    bench.ticks(0.2)
    show(bench, "a")
    bench.ticks(0.2)
    bench.log.append(p.Notice("unseen"), 0.0)
    come(bench)
    assert [record.event.text for record in bench.records if isinstance(record.event, p.Notice)] == ["unseen"]


def test_a_client_far_behind_leaves_others_their_turn(bench: Bench) -> None:
    started(bench, "a")
    bench.network.cut = True
    for _ in range(60):
        bench.say("x" * 1_000_000)
    bench.network.cut = False
    assert bench.clients.broadcast() == 0.0
    turns = 1
    while bench.clients.broadcast() is not None:
        turns += 1
    assert 2 <= turns <= 8


@pytest.mark.parametrize("asked", [p.Restart("asked", None), p.SetLimits("asked", {"lease": 1.0})])
def test_an_answer_that_is_lost_alone_is_said_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, asked: p.Numbered
) -> None:
    def lose(identity: bytes, *frames: bytes) -> bool:
        if len(frames) == 1 and isinstance(p.decode_reply(frames[0]), p.Done):
            monkeypatch.undo()
        else:
            bench.network.put(bench.network.to_client, [identity, *frames])
        return True

    monkeypatch.setattr(bench, "send", lose)
    bench.conversation.ask(asked, bench.network.now)
    bench.ticks(1)
    assert p.Done("asked") not in bench.replies
    bench.ticks(5)
    assert p.Done("asked") in bench.replies
