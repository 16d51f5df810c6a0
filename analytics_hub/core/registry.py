"""The channels that exist, and the sets of subscriptions that sessions have."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Final

from ..channels import Channel, check_name
from ..exceptions import ChannelLimitReached, InvalidChannel, UnknownChannel
from ..tuning import Tuning
from .cohort import Cohort, SubscriptionSet, SubscriptionSetKey
from .log import ChannelLog, DurableLog, EventLog, KeyedLog
from .schedule import Schedule
from .statistics import Demand
from .wire import Wire


class ChannelRegistry:
    """The declared channels, their logs, and the subscription sets in use.

    A name is either a declared channel or a member of a pattern. Members are created at first use, at most
    `max_members` of a pattern, and are removed when they have no watchers and nothing is kept.
    """

    def __init__(self, channels: Iterable[Channel], tuning: Tuning, nonce: str) -> None:
        self._tuning: Final = tuning
        self._nonce: Final = nonce
        self._epochs = 0
        self._patterns: list[Channel] = []
        self._members: dict[str, int] = {}
        self._unused: dict[str, dict[ChannelLog, None]] = {}
        """By pattern: members without any item ever, which had no watcher at some time."""
        self.members: Schedule[ChannelLog] = Schedule()
        self.logs: dict[str, ChannelLog] = {}
        self.subscription_sets: dict[SubscriptionSetKey, SubscriptionSet] = {}
        self.observed: set[str] = set()
        """The declared channels and patterns of which the driver wants to know every change of the demand."""
        declared: set[str] = set()
        for channel in channels:
            if channel.name in declared:
                raise InvalidChannel(f"channel {channel.name!r} is declared twice")
            declared.add(channel.name)
            if channel.is_pattern:
                if channel.mode == "durable":
                    raise InvalidChannel(f"pattern {channel.name!r} is durable; durable channels are declared by name")
                self._patterns.append(channel)
                self._members[channel.name] = 0
                self._unused[channel.name] = {}
            else:
                self._open(channel, channel.name)
        # The longest pattern that matches wins, so that `user:admin:*` may differ from `user:*`.
        self._patterns.sort(key=lambda pattern: len(pattern.name), reverse=True)
        # Without members: a name may be a secret, and sorting ten thousand of them takes a millisecond.
        declared_names = sorted(self.logs)[:8] + [pattern.name for pattern in self._patterns[:8]]
        self._declared: Final = ", ".join(declared_names) or "none"

    # --- channels

    def new_epoch(self) -> str:
        """An epoch that no other life of a channel has, in this process or another."""
        self._epochs += 1
        return f"{self._nonce}.{self._epochs}"

    def _open(self, channel: Channel, name: str) -> ChannelLog:
        log: ChannelLog
        name = check_name(name)  # without a subclass of `str`
        if channel.mode == "events":
            log = EventLog(channel, name, self.new_epoch(), self._tuning)
        elif channel.mode == "durable":
            log = DurableLog(channel, name, self.new_epoch(), self._tuning)
        else:
            log = KeyedLog(channel, name, self.new_epoch())
        self.logs[name] = log
        return log

    def restore(self, name: str, epoch: str, journal_floor: int, head: int) -> None:
        """Let a durable channel continue where its journal ends. Before it is read or published to."""
        self.logs[name] = DurableLog(self.logs[name].channel, name, epoch, self._tuning, head, journal_floor)

    def declaration(self, name: str) -> Channel:
        """The channel or pattern that declares `name`; raises `InvalidChannel` or `UnknownChannel`. For any thread."""
        log = self.logs.get(name)
        if log is not None:
            return log.channel
        check_name(name)
        for pattern in self._patterns:
            if name.startswith(pattern.name[:-1]) and len(name) >= len(pattern.name):
                return pattern
        raise UnknownChannel(f"channel {name!r} is not declared; the hub has {self._declared}")

    def resolve(self, name: str, now: float) -> ChannelLog:
        """The log of `name`, created if it is a new member of a pattern. Raises what `declaration` raises, or
        `ChannelLimitReached`."""
        log = self.logs.get(name)
        if log is not None:
            return log
        pattern = self.declaration(name)
        if self._members[pattern.name] >= self._tuning.max_members:
            raise ChannelLimitReached(
                f"channel {name!r} would be one more than the {self._tuning.max_members} members that pattern "
                f"{pattern.name!r} may have"
            )
        self._members[pattern.name] += 1
        log = self._open(pattern, name)
        log.published_at = now
        # Whole seconds, so that the heap has few entries.
        self.members.at(log, ceil(now + pattern.member_seconds))
        self._unused[pattern.name][log] = None
        return log

    def demand(self, declared: str) -> Demand:
        """What is watched of a declared channel or pattern; O(members + subscription sets x their subscriptions)."""
        watched = {name for name, log in self.logs.items() if log.watchers and log.channel.name == declared}
        rates = [
            max_hz for _, subscriptions in self.subscription_sets for name, max_hz in subscriptions if name in watched
        ]
        return Demand(
            viewers=sum(self.logs[name].watchers for name in watched),
            keys=frozenset(name[len(declared) - 1 :] for name in watched if declared.endswith("*")),
            max_hz=None if None in rates else max((rate for rate in rates if rate is not None), default=0.0),
        )

    def unwatched(self, log: ChannelLog) -> None:
        """A log has lost its last watcher."""
        if log.is_member and not log.head:
            self._unused[log.channel.name][log] = None

    def _make_room(self) -> None:
        """Remove members that were never used, while half of the places are taken: otherwise a client that asks for
        names could occupy all places for `keep_seconds`. Those without watchers for longest go first."""
        for name, unused in self._unused.items():
            while unused and self._members[name] > self._tuning.max_members // 2:
                log = next(iter(unused))
                del unused[log]
                if not log.watchers and not log.head:
                    self.members.cancel(log)
                    self._remove(log)

    def _remove(self, log: ChannelLog) -> None:
        del self.logs[log.name]
        self._members[log.channel.name] -= 1
        self._unused[log.channel.name].pop(log, None)

    def handle_timer(self, now: float) -> None:
        """Remove members that have no watchers and of which nothing is kept. If they are used again, they get a new
        epoch."""
        self._make_room()
        for log in self.members.due(now):
            expires = log.published_at + log.channel.member_seconds
            if not log.watchers and (log.is_empty or now >= expires):
                self._remove(log)
            else:
                self.members.at(log, max(expires, now + max(1.0, log.channel.member_seconds)))

    # --- subscription sets

    def find_subscription_set(self, wire: Wire, subscriptions: Iterable[tuple[str, float | None]]) -> SubscriptionSet:
        """The set of these subscriptions, created if there is none; O(subscriptions)."""
        key = (wire.name, tuple(sorted(subscriptions, key=lambda pair: pair[0])))
        found = self.subscription_sets.get(key)
        if found is None:
            found = self.subscription_sets[key] = SubscriptionSet(key, wire)
        return found

    def remove_cohort(self, cohort: Cohort) -> None:
        """Remove an empty cohort from its subscription set, and the set with its last cohort."""
        subscription_set = cohort.subscription_set
        del subscription_set.cohorts[cohort]
        if subscription_set.primary is cohort:
            subscription_set.primary = None
        if not subscription_set.cohorts:
            self.subscription_sets.pop(subscription_set.key, None)
