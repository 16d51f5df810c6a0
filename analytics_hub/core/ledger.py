"""The ledger: what became of every item a subscription was to get (`docs/protocol.md` §6)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counts from the start position on; `published = delivered + conflated + dropped + abandoned + pending`."""

    published: int = 0
    delivered: int = 0
    conflated: int = 0
    dropped: int = 0
    abandoned: int = 0
    pending: int = 0

    @property
    def is_balanced(self) -> bool:
        return self.published == self.delivered + self.conflated + self.dropped + self.abandoned + self.pending

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            self.published + other.published,
            self.delivered + other.delivered,
            self.conflated + other.conflated,
            self.dropped + other.dropped,
            self.abandoned + other.abandoned,
            self.pending + other.pending,
        )

    def close(self) -> Ledger:
        """The same once the subscription has ended: what was pending is abandoned."""
        return Ledger(self.published, self.delivered, self.conflated, self.dropped, self.abandoned + self.pending, 0)
