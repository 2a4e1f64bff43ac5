"""The words for a run that did not end well: the first true cause, the other ranks, what was kept, what to do."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from modal_magic.protocol import RemoteError, RunRetried
from modal_magic.ranges import name_ranks
from modal_magic.view.model import RankView, RunView
from modal_magic.view.status import seconds_in_words

__all__ = [
    "cause_of",
    "consequences",
    "emptied",
    "failure_lines",
    "failure_sentence",
    "headline",
    "retry_sentence",
    "strip_colours",
    "whereabouts",
    "why_killed",
]

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
RED, RESET = "\x1b[31m", "\x1b[0m"


def strip_colours(text: str) -> str:
    """A text without ANSI colours."""
    return _ANSI.sub("", text)


def _groups(ranks: Iterable[RankView]) -> list[tuple[list[int], RankView]]:
    """Ranks whose failure reads the same, told once, in the order in which they failed."""
    found: dict[tuple[str, ...], tuple[list[int], RankView]] = {}
    for rank in ranks:
        error = rank.error
        key = (
            (rank.lost, rank.where) if error is None else (error.name, error.message, str(error.line), *error.traceback)
        )
        found.setdefault(key, ([], rank))[0].append(rank.rank)
    return list(found.values())


def _told_apart(culprits: list[RankView]) -> tuple[list[RankView], list[RankView]]:
    """The ranks that failed of themselves, and those that only lost the connection to them."""
    causes = [rank for rank in culprits if rank.error is None or rank.error.kind != "communication"]
    if not causes:
        return culprits, []
    return causes, [rank for rank in culprits if rank not in causes]


def _cut_off(ranks: list[RankView]) -> list[str]:
    """A sentence for each place where ranks lost the connection; what the network said is noise."""
    places: dict[str, list[int]] = {}
    for rank in ranks:
        assert rank.error is not None
        call = f" in {rank.error.collective}" if rank.error.collective else ""
        line = f" at cell line {rank.error.line}" if rank.error.line else ""
        places.setdefault(call + line, []).append(rank.rank)
    return [
        f"{name_ranks(numbers)} lost {'its' if len(numbers) == 1 else 'their'} connection{place}"
        for place, numbers in places.items()
    ]


def _was_taken(rank: RankView) -> bool:
    """Whether a culprit did nothing but leave, as its agent has told it to: its node is taken away."""
    return rank.error is None and rank.state == "interrupted"


def _be(ranks: list[int]) -> str:
    return "is" if len(ranks) == 1 else "are"


def _of_all(numbers: list[int], cause: str) -> str:
    """How the process of a rank ended, as it is said of so many."""
    if len(numbers) == 1:
        return cause
    return re.sub(r"(^| and )was ", r"\1were ", cause).replace("ended its process ", "ended their processes ")


def _cause(numbers: list[int], rank: RankView) -> str:
    who = name_ranks(numbers)
    if _was_taken(rank):
        whose = "its" if len(numbers) == 1 else "their"
        return f"{who} left the run {whereabouts(rank.where)}, for {whose} node is taken away"
    if rank.error is None:
        return f"{who} {_of_all(numbers, rank.lost or 'could not take the cell')}"
    error: RemoteError = rank.error
    place = f" at cell line {error.line}" if error.line else ""
    message = error.message.strip().split("\n")[0].strip()[:300]
    if error.kind == "exit":
        return f"{who} ended with sys.exit({message}){place}"
    return f"{who} raised {error.name}{': ' + message if message else ''}{place}"


def headline(run: RunView) -> str:
    """The failure in one line, for the time in which the other ranks are still being freed."""
    ranks = [run.ranks[number] for number in run.failing]
    ranks.sort(key=lambda rank: rank.error is not None and 1 + (rank.error.kind == "communication"))
    left = [rank.rank for rank in run.ranks.values() if rank.state in ("queued", "running")]
    freeing = f" Freeing {name_ranks(left)}." if left else ""
    return f"{_cause(*_groups(ranks)[0])}.{freeing}"


def whereabouts(where: str) -> str:
    """`all_reduce at cell line 3` as it stands in a sentence: `in all_reduce at cell line 3`."""
    if where.startswith("before"):
        return where
    return f"at {where}" if where.startswith("cell line") else f"in {where}"


def why_killed(run: RunView) -> str:
    """How the ranks came to their end that an interrupt has cost their variables: `it did not leave the cell …`."""
    causes: dict[str, list[int]] = {}
    for rank in run.ranks.values():
        if rank.lost:
            causes.setdefault(rank.lost, []).append(rank.rank)
    it = "it" if sum(map(len, causes.values())) == 1 else "they"
    told = [
        f"{it if len(causes) == 1 else name_ranks(numbers)} {_of_all(numbers, cause.removesuffix(' and was killed'))}"
        for cause, numbers in causes.items()
    ]
    return "; ".join(told)


def failure_sentence(run: RunView) -> str:
    """What happened, on which rank and where, what was kept and what to do next, in a few short sentences."""
    sentences = _sentences(run)
    return _as_text(sentences) if run.ranks.keys() & set(run.culprits) else sentences[0]


def cause_of(run: RunView) -> str:
    """What happened first, on which rank and where."""
    return _sentences(run)[0]


def consequences(run: RunView) -> str:
    """What became of the other ranks, and what was kept."""
    rest = _sentences(run)[1:]
    return _as_text([rest[0][:1].upper() + rest[0][1:], *rest[1:]]) if rest else ""


def _as_text(sentences: list[str]) -> str:
    rest = [sentence[0].upper() + sentence[1:] for sentence in sentences[1:]]
    return ". ".join([sentences[0], *rest]) + "."


def _sentences(run: RunView) -> list[str]:
    culprits = [run.ranks[number] for number in run.culprits if number in run.ranks]
    if not culprits:
        return [run.refusal or "the run ended without a word from its ranks"]
    causes, cut_off = _told_apart(culprits)
    first, *rest = _groups(causes)
    sentences = [_cause(*first)]
    if rest:
        sentences.append("; then ".join(_cause(*group) for group in rest[:3]))
    sentences += _cut_off(cut_off)
    others = [rank for rank in run.ranks.values() if rank.rank not in run.culprits]
    interrupted = [rank for rank in others if rank.state == "interrupted"]
    by_place: dict[str, list[int]] = {}
    for rank in interrupted:
        by_place.setdefault(rank.where, []).append(rank.rank)
    for where, numbers in by_place.items():
        sentences.append(
            f"{name_ranks(numbers)} {'was' if len(numbers) == 1 else 'were'} interrupted {whereabouts(where)}"
        )
    sentences += [_cause(*group) for group in _groups(rank for rank in others if rank.state == "lost")]
    going = [rank.rank for rank in culprits if _was_taken(rank)]
    lost = [rank.rank for rank in run.ranks.values() if rank.lost or rank.rank in going]
    kept = [rank for rank in run.ranks if rank not in lost]
    if lost:
        replaced = not going and all(run.ranks[number].replaced for number in lost)
        again = f"{name_ranks(lost)} {_be(lost)} {'started again without variables' if replaced else 'gone for now'}"
        sentences.append(
            f"{again}; {name_ranks(kept)} {'keeps its' if len(kept) == 1 else 'keep their'} own" if kept else again
        )
    elif run.emptied:
        sentences.append(emptied(run))
    else:
        sentences.append("variables are kept on all ranks")
    if run.attempt > 1:
        sentences.append(f"this was attempt {run.attempt}")
    return sentences


def emptied(run: RunView) -> str:
    """Which ranks an earlier attempt has cost their variables."""
    whole = run.ranks.keys() - run.emptied
    lost = f"{name_ranks(run.emptied)} lost the variables of earlier cells when an earlier attempt failed"
    return f"{lost}; {name_ranks(whole)} {'keeps its' if len(whole) == 1 else 'keep their'} own" if whole else lost


def retry_sentence(event: RunRetried, lost: Collection[int] = ()) -> str:
    """What a notebook says between two attempts of a run. `lost` are the ranks that are started again."""
    delay = f" in {seconds_in_words(event.delay)}" if event.delay else " now"
    told = f"{event.cause}. Attempt {event.attempt} of {event.attempts} begins{delay}."
    if lost:
        told += f" {name_ranks(lost).capitalize()} {'comes' if len(lost) == 1 else 'come'} back without variables."
    return told


def failure_lines(name: str, run: RunView) -> list[str]:
    """The lines that a notebook shows: each different remote traceback once, then the sentence."""
    lines: list[str] = []
    causes, _ = _told_apart([run.ranks[number] for number in run.culprits if number in run.ranks])
    for numbers, rank in _groups(causes):
        if rank.error is not None and rank.error.traceback:
            lines += [f"{RED}[{name_ranks(numbers)}]{RESET}", *rank.error.traceback, ""]
    return [*lines, f"{RED}{name}{RESET}: {failure_sentence(run)}"]
