"""A session's status as text."""

from __future__ import annotations

from modal_magic.protocol import RankStatus, Status
from modal_magic.ranges import name_ranks
from modal_magic.view.numbers import percent, size

__all__ = ["seconds_in_words", "status_lines"]

LISTED = 32
"""Of so many ranks it is said where they are; a picture of the run has all."""


def seconds_in_words(seconds: float) -> str:
    """A time as people read it: `0.4 s`, `12 s`, `2:19`, `1:41:07`."""
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(max(60, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _doing(rank: RankStatus) -> str:
    """Where a rank was last seen, and what it uses: `rank 2: cell line 7 in backward, CPU 62 %, memory 1.2 G`."""
    place = f"cell line {rank.line}" + (f" in {rank.function}" if rank.function else "") if rank.line else ""
    used = f"CPU {percent(rank.cpu)}, memory {size(rank.memory)}" if rank.memory is not None else ""
    return f"    rank {rank.rank}: {', '.join(filter(None, (place, used)))}"


def status_lines(status: Status, shape: str) -> list[str]:
    """What a session is and how its ranks are; ranks that agree share a line."""
    lease = (
        f"lease of {seconds_in_words(status.lease)} not begun"
        if status.lease_left is None
        else f"lease runs out in {seconds_in_words(status.lease_left)}"
    )
    kernels = f"{status.clients} kernel{'s' * (status.clients != 1)} attached"
    ranks_up = f"{len(status.ranks)} rank{'s' * (len(status.ranks) != 1)}, up {seconds_in_words(status.uptime)}"
    lines = [
        f"{status.session}: {status.state}, {ranks_up}, {kernels}, {lease}",
        f"  shape {shape}",
    ]
    if status.idle is not None:
        idle = seconds_in_words(status.idle if status.idle_left is None else status.idle_left)
        lines.append(f"  ends after {idle} {'' if status.idle_left is None else 'more '}without a run")
    if status.lifetime_left is not None:
        lines.append(f"  ends in any case in {seconds_in_words(status.lifetime_left)}")
    groups: dict[tuple[str, str, int], list[int]] = {}
    for rank in status.ranks:
        groups.setdefault((rank.state, rank.device, rank.node_rank), []).append(rank.rank)
    for (state, device, node_rank), ranks in groups.items():
        pids = ", ".join(str(rank.pid) for rank in status.ranks if rank.rank in ranks and rank.pid)
        shown = f", pid {pids}" if len(ranks) <= 8 and pids else ""
        # Between runs all ranks are idle; how the last cell ended there is what tells them apart.
        rests = status.run is None and state in ("done", "failed", "interrupted")
        where = f" on {device}" if device else ""
        told = f"idle{where}, last cell {state}" if rests else f"{state}{where}"
        lines.append(f"  {name_ranks(ranks)} on node {node_rank}: {told}{shown}")
    if status.run is not None:
        lines.append(f"  run {status.run} goes on, {len(status.queued)} more wait")
        lines += [_doing(rank) for rank in status.ranks if rank.cpu is not None or rank.line][:LISTED]
    return lines
