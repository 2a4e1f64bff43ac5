"""How much output of a run goes to clients: what is past the limit stays in the log."""

from __future__ import annotations

from dataclasses import dataclass

from modal_magic.lines import utf8_size

__all__ = ["Flow"]


@dataclass(slots=True)
class Flow:
    """What a run has put out since it `began` (monotonic seconds): bytes sent to clients and withheld from them."""

    limit: int | None
    began: float
    sent: int = 0
    withheld: int = 0

    def admit(self, text: str) -> tuple[str, str]:
        """Text that may be sent, and the rest, which is withheld: the limit cuts where a line begins, and for good."""
        size = utf8_size(text)
        if self.limit is None or (self.sent + size <= self.limit and not self.withheld):
            self.sent += size
            return text, ""
        data = b"" if self.withheld else text.encode()
        cut = data.rfind(b"\n", 0, self.limit - self.sent) + 1 if data else 0
        self.sent += cut
        self.withheld += size - cut
        return (data[:cut].decode(), data[cut:].decode()) if cut else ("", text)
