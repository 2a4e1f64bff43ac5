"""The roots of all messages: immutable, and arrays in msgpack."""

from __future__ import annotations

from typing import dataclass_transform

import msgspec


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Root of all messages: immutable, written as `[type, field, …]`."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Part(msgspec.Struct, frozen=True, array_like=True):
    """Root of what messages are made of: as a message, but with no type of its own on the wire."""
