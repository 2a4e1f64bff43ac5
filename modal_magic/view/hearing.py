"""Messages of widgets while a cell runs: a kernel hears them when that is over, so they are taken from its queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import zmq

__all__ = ["hear"]

Frames = list[Any]
"""A message of a kernel's shell channel, as ipykernel receives it."""


def hear(kernel: Any, comm: str) -> None:
    """Have this comm take the messages that have come for it. Everything else is left to the kernel, in its order.

    To be called in the thread that runs the cell. Kernels hand each message on when the cell before it is over: those
    of ipykernel 6 from the socket itself, those of 7 from a pair of sockets behind it. A kernel that has neither hears
    its widgets later, as all do without this.
    """
    incoming, hand_on = _queue_of(kernel)
    if incoming is None or threading.current_thread() is not threading.main_thread():
        return
    while True:
        try:
            frames = incoming.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return
        if not _taken(kernel, comm, frames):
            hand_on(frames)


def _queue_of(kernel: Any) -> tuple[Any, Callable[[Frames], object]]:
    """Where a kernel's requests wait while a cell runs (None: not known), and what puts one behind those before it."""
    if not hasattr(kernel, "shell_main"):  # ipykernel 6
        stream = getattr(kernel, "shell_stream", None) if hasattr(kernel, "schedule_dispatch") else None
        return getattr(stream, "socket", None), lambda frames: kernel.schedule_dispatch(kernel.dispatch_shell, frames)
    later: set[asyncio.Task[None]] = set()

    def hand_on(frames: Frames) -> None:
        task = asyncio.get_running_loop().create_task(kernel.shell_main(None, frames))
        later.add(task)  # the loop itself holds no task
        task.add_done_callback(later.discard)

    manager = getattr(getattr(kernel, "shell_channel_thread", None), "manager", None)
    pair = manager and manager.get_shell_channel_to_subshell_pair(None)
    return getattr(pair, "to_socket", None), hand_on


def _taken(kernel: Any, comm: str, frames: Frames) -> bool:
    """Whether this is a message for the comm, which then has it."""
    try:
        idents, parts = kernel.session.feed_identities(frames, copy=False)
        # That it was read is noted, and a message that is read twice is refused; its header may be looked at.
        seen = kernel.session.deserialize(parts, content=False, copy=False)
        if seen["header"]["msg_type"] != "comm_msg" or kernel.session.unpack(seen["content"]).get("comm_id") != comm:
            return False
        message = kernel.session.deserialize(parts, content=True, copy=False)
    except Exception:  # ipykernel says what is wrong with a message, and has some that are none
        return False
    kernel.comm_manager.comm_msg(None, idents, message)
    return True
