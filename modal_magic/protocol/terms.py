"""What the ends of every link agree on: their version, how often each says that it lives, and the size of a frame."""

from __future__ import annotations

VERSION = 4
"""Rises with every change that an older peer could not read; peers of different versions refuse each other."""

BEAT_SECONDS = 0.25
"""How often each end of a link says that it lives, when it has nothing else to say."""

SILENCE_SECONDS = 1.5
"""After this long without a word the other end of a link counts as gone."""

DEAD_MAN_SECONDS = 15.0
"""An agent that hears nothing from its gateway for so long ends its node: nobody could stop it any more."""

ANSWER_SECONDS = 0.1
"""How long a rank has to say where it is, before its agent says that it does not."""

MESSAGE_BYTES = 256 * 1024 * 1024
"""The largest frame that any socket accepts."""
