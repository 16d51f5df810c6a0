"""Everything that is counted, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .ledger import Ledger

if TYPE_CHECKING:
    from .engine import Engine


@dataclass(frozen=True, slots=True)
class ChannelStatistics:
    """One channel: where it stands, and the ledger summed over all subscriptions there are and were."""

    mode: str
    epoch: str
    head: int
    kept: int
    watchers: int
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """The hub at one moment. `counters` names what happened since it began."""

    sessions: int
    stalled: int
    subscriptions: int
    layouts: int
    cohorts: int
    channels: Mapping[str, ChannelStatistics]
    counters: Mapping[str, int]


def observe(engine: Engine) -> EngineStatistics:
    """Add up the open accounts and those that were closed."""
    sums = {name: log.closed for name, log in engine.registry.logs.items()}
    for session in engine.sessions.values():
        for name, ledger in engine.ledger(session).items():
            sums[name] += ledger
    layouts = engine.registry.layouts.values()
    return EngineStatistics(
        sessions=len(engine.sessions),
        stalled=sum(session.is_stalled for session in engine.sessions.values()),
        subscriptions=sum(len(session.subscriptions) for session in engine.sessions.values()),
        layouts=len(layouts),
        cohorts=sum(len(layout.cohorts) for layout in layouts),
        channels={
            name: ChannelStatistics(
                mode=log.channel.mode,
                epoch=log.epoch,
                head=log.head,
                kept=log.head - log.floor,
                watchers=log.watchers,
                ledger=sums[name],
            )
            for name, log in engine.registry.logs.items()
        },
        counters=dict(engine.counters),
    )
