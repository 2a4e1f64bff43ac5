"""The line between a gateway and an agent, over connections that break: every message once and in order."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from modal_magic import protocol as p
from modal_magic.links.delivery import BEAT, WINDOW_BYTES, Delivery, epoch_of


class Pair:
    """Two ends, and what is on its way between them. `away` says that a sender is told that nothing can be sent."""

    def __init__(self) -> None:
        self.way: tuple[list[list[bytes]], list[list[bytes]]] = ([], [])
        self.away = False
        self.ends = Delivery(7, self.sender(0)), Delivery(7, self.sender(1))
        self.heard: tuple[list[bytes], list[bytes]] = ([], [])
        self.now = 0.0

    def sender(self, number: int) -> Callable[[list[bytes]], bool]:
        def transmit(frames: list[bytes]) -> bool:
            if not self.away:
                self.way[number].append(frames)
            return not self.away

        return transmit

    def arrive(self, number: int) -> None:
        """The oldest message of an end arrives at the other one."""
        data = self.ends[1 - number].take(self.way[number].pop(0), self.now)
        if data is not None and data != BEAT:
            self.heard[1 - number].append(data)

    def settle(self) -> None:
        """Beats go to and fro for a while, and nothing breaks."""
        self.away = False
        for _ in range(4):
            self.now += 1.0
            for number in (0, 1):
                self.ends[number].beat()
            while any(self.way):
                for number in (0, 1):
                    if self.way[number]:
                        self.arrive(number)


@pytest.mark.parametrize("seed", range(200))
def test_whatever_breaks_every_message_arrives_once_and_in_order(seed: int) -> None:
    chance, pair = random.Random(seed), Pair()
    said: tuple[list[bytes], list[bytes]] = ([], [])
    for number in range(300):
        end = chance.randrange(2)
        match chance.randrange(12):
            case 0:  # the connection breaks: all that is on its way is lost
                for way in pair.way:
                    way.clear()
            case 1:
                pair.away = not pair.away
            case 2:
                pair.ends[end].beat()
            case 3 | 4 | 5 | 6:
                said[end].append(b"%d" % number)
                pair.ends[end].say(said[end][-1])
            case _ if pair.way[end]:
                pair.arrive(end)
        pair.now += chance.choice([0.0, 0.01, 0.5])
    pair.settle()
    assert pair.heard[1] == said[0] and pair.heard[0] == said[1]
    assert not any(end.kept or end.size for end in pair.ends)


def test_the_last_message_too_is_missed() -> None:
    pair = Pair()
    pair.ends[0].say(b"the end")
    pair.way[0].clear()
    pair.ends[0].beat()
    pair.arrive(0)  # the beat shows the gap,
    pair.arrive(1)  # it is asked for,
    pair.arrive(0)  # and comes
    assert pair.heard[1] == [b"the end"]


def test_an_end_that_is_not_heard_of_is_full_and_a_receipt_makes_room() -> None:
    pair = Pair()
    large = bytes(WINDOW_BYTES // 4)
    for _ in range(5):
        assert not pair.ends[0].full
        pair.ends[0].say(large)
    assert pair.ends[0].full
    for _ in range(5):
        pair.arrive(0)
    assert pair.way[1]  # large messages are receipted without a beat
    while pair.way[1]:
        pair.arrive(1)
    assert not pair.ends[0].full


def test_what_another_agent_said_or_nobody_is_not_taken() -> None:
    end, sent = Delivery(1, lambda frames: True), []
    Delivery(2, lambda frames: sent.append(frames) is None).say(p.encode(p.Rejoin()))
    assert epoch_of(sent[0]) == 2
    assert end.take(sent[0], 0.0) is None
    for noise in ([], [b"x"], [b"x", b"y"], [*sent[0], b"z"]):
        with pytest.raises(msgspec.DecodeError):
            end.take(noise, 0.0)
