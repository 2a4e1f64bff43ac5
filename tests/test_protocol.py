"""Every message in bytes and back, and bytes that are no message."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some
from msgspec import inspect as look

from modal_magic import protocol as p
from modal_magic import specs
from modal_magic.links.framing import frame, split

UNIONS: dict[str, tuple[Any, Callable[[bytes], Any]]] = {
    "event": (p.WorkerEvent, p.decode_event),
    "task": (p.Task, p.decode_task),
    "order": (p.Order, p.decode_order),
    "report": (p.Report, p.decode_report),
    "request": (p.Request, p.decode_request),
    "reply": (p.Reply, p.decode_reply),
    "record": (p.Record, p.decode_record),
    "records": (list[p.Record], p.decode_records),
    "backend word": (specs.BackendWord, specs.decode_backend_word),
    "zygote word": (specs.ZygoteWord, specs.decode_zygote_word),
    "agent word": (specs.AgentWord, specs.decode_agent_word),
    "zygote to gateway": (specs.Introduced, specs.decode_introduced),
    "zygote to agent": (specs.ZygoteToAgent, specs.decode_zygote_to_agent),
}
"""What may be said on each link, and what reads it."""

texts = some.text(max_size=8)
numbers = some.integers(-(2**63), 2**64 - 1)
anything = some.recursive(
    some.none() | some.booleans() | numbers | some.floats(allow_nan=False) | texts | some.binary(max_size=8),
    lambda inner: some.lists(inner, max_size=2) | some.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


def messages(kind: look.Type) -> some.SearchStrategy[Any]:
    """Values of a type that msgspec describes."""
    match kind:
        case look.IntType():
            return numbers
        case look.FloatType():
            return some.floats(allow_nan=False)
        case look.StrType():
            return texts
        case look.BytesType():
            return some.binary(max_size=8)
        case look.BoolType():
            return some.booleans()
        case look.NoneType():
            return some.none()
        case look.AnyType():
            return anything
        case look.LiteralType(values=values):
            return some.sampled_from(values)
        case look.UnionType(types=types):
            return some.one_of(*map(messages, types))
        case look.ListType(item_type=item):
            return some.lists(messages(item), max_size=2)
        case look.TupleType(item_types=items):
            return some.tuples(*map(messages, items))
        case look.DictType(key_type=key, value_type=value):
            return some.dictionaries(messages(key), messages(value), max_size=2)
        case look.StructType(cls=cls, fields=fields):
            return some.builds(cls, **{field.name: messages(field.type) for field in fields})
    raise NotImplementedError(kind)


STRATEGIES = {name: messages(look.type_info(union)) for name, (union, _) in UNIONS.items()}


def all_messages() -> list[type[p.Message]]:
    return [kind for room in (p, specs) for kind in vars(room).values() if is_message(kind)]


def is_message(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, p.Message) and kind is not p.Message


def members(union: Any) -> set[type]:
    """The message types that a union has, by what Python says of it. One alone is a union too."""
    return set(get_args(union)) or {union}


# ---- the messages ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(some.data())
@pytest.mark.parametrize("name", UNIONS)
def test_every_message_survives_its_journey(name: str, data: some.DataObject) -> None:
    message = data.draw(STRATEGIES[name])
    assert UNIONS[name][1](p.encode(message)) == message


@pytest.mark.parametrize("name", UNIONS)
def test_a_reader_takes_what_may_be_said_on_its_link_and_nothing_else(name: str) -> None:
    union, read = UNIONS[name]
    if union in (p.Record, list[p.Record]):
        return
    for kind in set(all_messages()):
        data = p.encode(example_of(look.type_info(kind)))
        if kind in members(union):
            assert type(read(data)) is kind
        else:
            with pytest.raises(msgspec.ValidationError):
                read(data)


def example_of(kind: look.Type) -> Any:
    """A small value of a type, with something in every field."""
    match kind:
        case look.IntType() | look.FloatType():
            return 7
        case look.StrType() | look.AnyType():
            return "é x"
        case look.BytesType():
            return b"bytes"
        case look.BoolType():
            return True
        case look.LiteralType(values=values):
            return values[0]
        case look.UnionType(types=types):
            return example_of(next(kind for kind in types if not isinstance(kind, look.NoneType)))
        case look.ListType(item_type=item):
            return [example_of(item)]
        case look.TupleType(item_types=items):
            return tuple(map(example_of, items))
        case look.DictType(value_type=value):
            return {"k": example_of(value)}
        case look.StructType(cls=cls, fields=fields):
            return cls(**{field.name: example_of(field.type) for field in fields})
    raise NotImplementedError(kind)


def test_tags_are_unique_on_every_link() -> None:
    for union, _ in UNIONS.values():
        tags = [kind.__struct_config__.tag for kind in all_messages() if kind in members(union)]
        assert len(set(tags)) == len(tags)
    names = [kind.__name__ for kind in vars(p).values() if is_message(kind)]
    assert len(set(names)) == len(names)


def test_every_message_is_said_on_some_link() -> None:
    said = {kind for union, _ in UNIONS.values() for kind in members(union)} | members(p.Event)
    said |= members(p.LiveEvent)
    assert {kind.__name__ for kind in all_messages()} == {kind.__name__ for kind in said if is_message(kind)}


def test_messages_are_arrays_that_begin_with_their_name() -> None:
    for kind in all_messages():
        config = kind.__struct_config__
        assert (config.array_like, config.frozen, config.tag) == (True, True, kind.__name__)
    assert p.encode(p.Started(3, "a")) == b"\x93\xa7Started\x03\xa1a"


def test_no_message_is_taken_for_another_with_the_same_fields() -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid value 'Lost'"):
        p.decode_task(p.encode(p.Lost(1, "x")))


def test_text_of_any_kind_arrives_as_it_was() -> None:
    text = "é 🏖️ \x00 \x1b[31m \r\n \u2028"
    assert p.decode_event(p.encode(p.Output(0, "a", "stdout", text))) == p.Output(0, "a", "stdout", text)


# ---- joined messages -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(some.lists(STRATEGIES["record"], max_size=5))
def test_joining_messages_is_encoding_their_list(records: list[p.Record]) -> None:
    assert p.decode_records(p.join(p.encode(record) for record in records)) == records


@settings(deadline=None, max_examples=20)
@given(some.lists(STRATEGIES["event"], max_size=3))
def test_a_report_put_together_from_events_in_bytes_is_the_report(events: list[Any]) -> None:
    # The agent passes events on without taking them apart: what it writes by hand must be what `encode` means.
    data = b"\x92\xa8Happened" + p.join(map(p.encode, events))
    assert p.decode_report(data) == p.Happened(events)
    assert p.encode(p.Happened([]))[:10] == b"\x92\xa8Happened"


# ---- what is no message ----------------------------------------------------------------------------------------------

DISPLAY = b"\x97\xa7Display\x00\xa1r\xa7display\x81\xa1a%s\x80\xc0"
OUTPUT = b"\x95\xa6Output\x00\xa1r\xa6stdout%s"


@pytest.mark.parametrize("name", UNIONS)
def test_noise_is_refused_as_such(name: str) -> None:
    chance = random.Random(name)
    for _ in range(2000):
        refuse_or_read(name, chance.randbytes(chance.randrange(40)))


@pytest.mark.parametrize("name", UNIONS)
def test_a_damaged_message_is_refused_or_is_another_message(name: str) -> None:
    chance = random.Random(name)
    whole = [p.encode(message) for message in samples(name)]
    for _ in range(4000):
        damaged = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(damaged) + 1)
            match chance.randrange(4):
                case 0:
                    del damaged[place:]
                case 1:
                    damaged[place:place] = chance.randbytes(2)
                case _:
                    damaged[place : place + 1] = chance.randbytes(1)
        refuse_or_read(name, bytes(damaged))


def samples(name: str) -> list[Any]:
    """One message of each type that may be said on a link, with something in every field."""
    union, _ = UNIONS[name]
    if name in ("record", "records"):
        events = [example_of(kind) for kind in look.multi_type_info(members(p.Event))]
        records = [p.Record(number, 0.0, event) for number, event in enumerate(events)]
        return records if name == "record" else [records]
    return [example_of(kind) for kind in look.multi_type_info(members(union))]


@pytest.mark.parametrize("name", ["event", "report", "record"])
@pytest.mark.parametrize(
    "data",
    [
        OUTPUT % b"\xa2\xff\xfe",  # a text that is not UTF-8
        DISPLAY % b"\xa1\xff",
        DISPLAY % (b"\x91" * 100_000),  # so deep that reading it would need more stack than there is
        DISPLAY % b"\x81\x91\x01\x02",  # a mapping whose key is a list
        DISPLAY % b"\x81\x81\x01\x02\x03",  # a mapping whose key is a mapping
        DISPLAY % (b"\xd7\xff" + b"\xff" * 8),  # a time that is none
        b"\xdd\xff\xff\xff\xff",  # a list of four thousand million
        b"\xdb\xff\xff\xff\xff",
        b"",
    ],
    ids=["not utf-8", "not utf-8 within", "deep", "list key", "mapping key", "no time", "long", "long text", "empty"],
)
def test_crafted_bytes_are_refused_as_such(name: str, data: bytes) -> None:
    within = {"event": data, "report": b"\x92\xa8Happened\x91" + data, "record": b"\x93\x01\xcb" + bytes(8) + data}
    refuse_or_read(name, within[name])


def refuse_or_read(name: str, data: bytes) -> None:
    """Bytes are a message, which can be said again, or are refused as what readers are ready for, and nothing else."""
    try:
        message = UNIONS[name][1](data)
    except p.NOISE:
        return
    p.encode(message)


# ---- messages on a stream --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(some.lists(STRATEGIES["task"], max_size=6), some.lists(some.integers(1, 40), min_size=1))
@example([p.Exit(), p.Interrupt("a")], [1])
def test_a_stream_cut_anywhere_gives_the_same_messages(tasks: list[Any], cuts: list[int]) -> None:
    stream = b"".join(map(frame, tasks))
    buffer, found, start = bytearray(), [], 0
    while start < len(stream):
        size = cuts[start % len(cuts)]
        buffer += stream[start : start + size]
        start += size
        found += split(buffer)
    assert [p.decode_task(data) for data in found] == tasks
    assert not buffer


def test_half_a_message_waits_for_its_other_half() -> None:
    whole = frame(p.Interrupt("a"))
    buffer = bytearray(whole[:-1])
    assert split(buffer) == []
    assert buffer == whole[:-1]
    assert split(bytearray(b"\x00\x00\x00")) == []


@pytest.mark.parametrize("length", [p.MESSAGE_BYTES + 1, 2**32 - 1])
def test_a_length_that_no_message_has_is_refused_before_anything_is_kept(length: int) -> None:
    with pytest.raises(ValueError, match="not a frame of ours"):
        split(bytearray(length.to_bytes(4, "little")))


def test_the_longest_message_is_not_refused() -> None:
    assert split(bytearray(p.MESSAGE_BYTES.to_bytes(4, "little"))) == []
