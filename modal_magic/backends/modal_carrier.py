"""Connections carried through a `modal.Queue`, where a tunnel's port cannot be reached: the same bytes, in items.

Each connection has two partitions, one for each way. What it carries is CURVE's, so that it is checked and secret from
end to end; an item that is lost on its way ends the connection, and ZeroMQ makes another.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator

import modal

from modal_magic.backends.modal_trouble import TROUBLE

__all__ = ["PIECE_BYTES", "answering", "carry_to_gateway"]

QUEUE_NAME = "modal-magic"
PIECE_BYTES = 512 * 1024
"""The largest item. Modal takes items of 1 MiB and 64 MiB in a partition."""
ITEMS_AT_ONCE = 8
KEPT_SECONDS = 3600
"""How long after the last word Modal forgets what nobody has taken."""
QUIET_SECONDS = 30.0
"""A connection over which nothing comes for so long is given up: ends that live say so four times a second."""
FULL_SECONDS = 60.0
"""How long an item may wait for room in its partition."""
AGAIN_SECONDS = 1.0
"""How long after a failure Modal is asked again."""
LAST_SECONDS = 2.0
"""How long last words have to be taken along when the gateway's end closes."""
END = b""
"""The item of an end that closes."""
ENDS = (*TROUBLE, queue.Empty, queue.Full, OSError)
"""What a connection may end by: Modal or the network."""


def _partition(key: str, what: str) -> str:
    """The partition of a session for this purpose. Modal takes names of 64 bytes; a key ends in what is its alone."""
    return f"{key[-12:]}/{what}"


async def _send(items: modal.Queue, reader: asyncio.StreamReader, partition: str) -> None:
    """Put what comes from a socket into a partition, until the socket's end."""
    number = 0
    while data := await reader.read(PIECE_BYTES):
        item = number.to_bytes(8, "big") + data
        await items.put.aio(item, partition=partition, partition_ttl=KEPT_SECONDS, timeout=FULL_SECONDS)
        number += 1


async def _receive(items: modal.Queue, writer: asyncio.StreamWriter, partition: str) -> None:
    """Write what comes through a partition into a socket, until the other end closes or is silent, or one is lost."""
    expected = 0
    while True:
        async with asyncio.timeout(QUIET_SECONDS + AGAIN_SECONDS):  # Modal itself may not answer
            several = await items.get_many.aio(ITEMS_AT_ONCE, timeout=QUIET_SECONDS, partition=partition)
        for item in several:
            number = int.from_bytes(item[:8], "big")
            if item == END or number > expected:
                return
            if number == expected:  # a smaller one was put again
                expected += 1
                writer.write(item[8:])
        await writer.drain()


async def _carry(
    items: modal.Queue, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, out: str, back: str
) -> None:
    """Carry a connection until one of its ends closes."""
    ways = [asyncio.create_task(_send(items, reader, out)), asyncio.create_task(_receive(items, writer, back))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)  # whatever it was: ZeroMQ makes another connection
        writer.close()
        with contextlib.suppress(*ENDS):
            await items.put.aio(END, partition=out, partition_ttl=KEPT_SECONDS, timeout=AGAIN_SECONDS)


def carry_to_gateway(key: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """The near end: carries a connection of a client to the gateway of the session with this key."""
    items = modal.Queue.from_name(QUEUE_NAME, create_if_missing=True)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = secrets.token_hex(4)
        try:
            await items.put.aio(
                name, partition=_partition(key, "new"), partition_ttl=KEPT_SECONDS, timeout=FULL_SECONDS
            )
        except ENDS:
            writer.close()
            return
        await _carry(items, reader, writer, _partition(key, f"{name}/up"), _partition(key, f"{name}/down"))

    return carry


async def _answer(key: str, port: int, ended: asyncio.Event) -> None:
    """The far end: makes each connection that is asked for to a port of this machine, and carries it."""
    items = modal.Queue.from_name(QUEUE_NAME, create_if_missing=True)
    carried: set[asyncio.Task[None]] = set()

    async def accept() -> None:
        while True:
            try:
                name = await items.get.aio(partition=_partition(key, "new"))
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=PIECE_BYTES)
            except ENDS:
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            out, back = _partition(key, f"{name}/down"), _partition(key, f"{name}/up")
            task = asyncio.create_task(_carry(items, reader, writer, out, back))
            carried.add(task)
            task.add_done_callback(carried.discard)

    accepting = asyncio.create_task(accept())
    await ended.wait()
    accepting.cancel()
    if carried:
        await asyncio.wait(carried, timeout=LAST_SECONDS)
    for task in (accepting, *carried):
        task.cancel()
    await asyncio.gather(accepting, *carried, return_exceptions=True)


@contextlib.contextmanager
def answering(key: str, port: int) -> Iterator[None]:
    """For the time of this context connections that come through the queue lead to this port, in a thread."""
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    def serve() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(_answer(key, port, ended))

    thread = threading.Thread(target=serve, name="modal_magic carrier", daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(2 * LAST_SECONDS)
