"""The bridge of a session: a port of this machine that leads to its gateway through a `modal.Queue`, for its life.

It is a process of its own, so that kernels and Jupyter servers come and go, and know only ZeroMQ. The first line of its
stdout is the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

from modal_magic import registry
from modal_magic.backends.modal_carrier import PIECE_BYTES, carry_to_gateway
from modal_magic.backends.modal_meeting import Meeting
from modal_magic.backends.modal_trouble import TROUBLE

__all__: list[str] = []

LOOK_SECONDS = 0.5
"""How often the bridge looks whether the session's folder is there: a client removes it when the session is closed."""
ASK_SECONDS = 5.0
"""How often it asks Modal whether the session is over: there may be no client to hear of it."""


async def bridge(session: str, key: str, port: int) -> None:
    """Serve until the session is over, or is given up on this machine."""
    server = await asyncio.start_server(carry_to_gateway(key), "127.0.0.1", port, limit=PIECE_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    sys.stdout.close()  # who started this waits for no more
    folder, meeting, asked = registry.folder_of(session), Meeting(key), time.monotonic()
    while folder.exists():
        await asyncio.sleep(LOOK_SECONDS)
        if time.monotonic() - asked > ASK_SECONDS:
            with contextlib.suppress(*TROUBLE, OSError):
                async with asyncio.timeout(ASK_SECONDS):
                    if await meeting.is_over():
                        registry.forget(session)  # there was no client that heard of it
            asked = time.monotonic()


if __name__ == "__main__":
    asyncio.run(bridge(sys.argv[1], sys.argv[2], int(sys.argv[3])))
