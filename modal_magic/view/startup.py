"""How long the start of a session took, stage by stage, as text."""

from __future__ import annotations

from collections.abc import Sequence

from modal_magic.protocol import Stage
from modal_magic.ranges import format_ranks
from modal_magic.view.status import seconds_in_words

__all__ = ["startup_line"]


def startup_line(stages: Sequence[Stage], now: float) -> str:
    """`build 0.4 s, queue 31 s (node 1), cold start 6.2 s (node 0)`: of a stage that every node has, the longest.

    `now` is in seconds since 1970, for what goes on. Empty where there are no stages.
    """
    names = list(dict.fromkeys(stage.name for stage in sorted(stages, key=lambda stage: stage.began)))
    return ", ".join(_told([stage for stage in stages if stage.name == name], now) for name in names)


def _told(stages: list[Stage], now: float) -> str:
    name, going = stages[0].name, [stage for stage in stages if stage.seconds is None]
    if going:
        nodes = [stage.node for stage in going if stage.node >= 0]
        who = f" (node{'s' * (len(nodes) > 1)} {format_ranks(nodes)})" if nodes else ""
        since = max(0.0, now - min(stage.began for stage in going))
        return f"{name} for {seconds_in_words(since)} so far{who}"
    longest = max(stages, key=lambda stage: stage.seconds or 0.0)
    who = f" (node {longest.node})" if len(stages) > 1 else ""
    return f"{name} {seconds_in_words(longest.seconds or 0.0)}{who}"
