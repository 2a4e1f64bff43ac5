"""How messages are put into bytes, and what reads them: a closed union on each link and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import msgspec

from modal_magic.protocol.node_events import WorkerEvent
from modal_magic.protocol.orders import Order, Report, Task
from modal_magic.protocol.replies import Reply
from modal_magic.protocol.requests import Numbered, Request
from modal_magic.protocol.session_events import Record

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
"""The bytes of one message."""

decode_event = msgspec.msgpack.Decoder(WorkerEvent).decode
decode_task = msgspec.msgpack.Decoder(Task).decode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
decode_record = msgspec.msgpack.Decoder(Record).decode
decode_records = msgspec.msgpack.Decoder(list[Record]).decode

NOISE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoders raise for bytes that are no message."""

_batch = struct.Struct(">cQQ")
_number = struct.Struct(">Q")


def numbered(number: int, request: Numbered) -> list[bytes]:
    """The frames of a request with its number. Any other message of a client goes as one frame."""
    return [_number.pack(number), encode(request)]


def number_of(frame: bytes) -> int:
    """The number of a request. Raises DecodeError for bytes that are none."""
    if len(frame) != _number.size:
        raise msgspec.DecodeError("not the number of a request")
    return int(_number.unpack(frame)[0])


def batch(after: int, last: int, encoded: Iterable[bytes]) -> list[bytes]:
    """The frames of a batch: records after number `after` up to `last`, some of which may be left out on purpose."""
    return [_batch.pack(b"R", after, last), join(encoded)]


def bounds_of(frame: bytes) -> tuple[int, int]:
    """The two numbers of a batch. Raises DecodeError for bytes that are no head of one."""
    if len(frame) != _batch.size or frame[:1] != b"R":
        raise msgspec.DecodeError("not the head of a batch of records")
    _, after, last = _batch.unpack(frame)
    return after, last


def join(encoded: Iterable[bytes]) -> bytes:
    """The msgpack array of messages that are bytes already (msgpack specification, format `array 32`)."""
    parts = list(encoded)
    return b"".join((b"\xdd", struct.pack(">I", len(parts)), *parts))
