"""Everything that is counted, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ledger:
    """The fate of every item that a subscription was to get (`docs/protocol.md` §6), from its start position on.

    `published = delivered + conflated + dropped + abandoned + pending`.
    """

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
        """The ledger after the subscription has ended: what was pending is abandoned."""
        return Ledger(self.published, self.delivered, self.conflated, self.dropped, self.abandoned + self.pending, 0)


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """One channel: its newest number, and the sum of the ledgers of all its subscriptions, past and present."""

    mode: str
    epoch: str
    head: int
    kept: int
    watchers: int
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """The engine at one moment. `counters` counts events since it was created, by name."""

    sessions: int
    stalled: int
    subscriptions: int
    subscription_sets: int
    cohorts: int
    channels: Mapping[str, ChannelStatistics]
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Demand:
    """What the subscribers of a channel, or of all members of a pattern, want at one moment."""

    viewers: int = 0
    """Subscriptions; 0 if nothing is watched."""
    keys: frozenset[str] = frozenset()
    """Of a pattern: what stands for the `*` in each member that is watched."""
    max_hz: float | None = 0.0
    """The highest `max_hz` of a subscription, None if one of them sets no limit; 0 if nothing is watched."""
