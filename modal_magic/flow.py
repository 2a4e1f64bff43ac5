"""How much output of a run goes to clients: each rank has its share, and what is past the limit stays in the log."""

from __future__ import annotations

from dataclasses import dataclass, field

from modal_magic.lines import utf8_size

__all__ = ["Flow"]


@dataclass(slots=True)
class Flow:
    """What a run has put out since it `began` (monotonic seconds). Sizes are in bytes of UTF-8.

    Half of the limit is shared out to the ranks, so that one which floods leaves the others their part; the other half
    is for whoever writes more.
    """

    limit: int | None
    ranks: int
    began: float
    withheld: int = 0
    cut: set[int] = field(default_factory=set)
    common: int = 0
    own: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Share the limit out."""
        if self.limit is not None:
            self.common = self.limit - self.ranks * self._share()

    def _share(self) -> int:
        return (self.limit or 0) // (2 * self.ranks)

    def admit(self, rank: int, text: str) -> tuple[str, str]:
        """Text of a rank that may be sent, and the rest, which is withheld: cut where a line begins, and for good."""
        if self.limit is None:
            return text, ""
        size, own = utf8_size(text), self.own.setdefault(rank, self._share())
        room = 0 if rank in self.cut else own + self.common
        shown, withheld = text, ""
        if size > room:
            data = text.encode()
            cut = data.rfind(b"\n", 0, room) + 1
            shown, withheld = (data[:cut].decode(), data[cut:].decode()) if cut else ("", text)
            self.withheld += size - cut
            self.cut.add(rank)
            size = cut
        self.own[rank] = max(0, own - size)
        self.common -= max(0, size - own)
        return shown, withheld
