"""Which channels there are, and which sessions want the same of them."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from typing import Final

from ..channels import Channel, check_name
from ..exceptions import ChannelLimitReached, InvalidChannel, UnknownChannel
from ..tuning import Tuning
from .cohort import Cohort
from .log import ChannelLog, DurableLog, EventLog, KeyedLog
from .schedule import Schedule
from .wire import Wire

SubscriptionSetKey = tuple[str, tuple[tuple[str, float | None], ...]]


class SubscriptionSet:
    """What a dashboard shows: a wire and a set of subscriptions. Its cohorts take their turns together.

    `not_before` is the interval after the last turn in which one of them was written: a cohort that keeps a beat of its
    own waits for it once, and by that falls into step and can be joined.
    """

    __slots__ = ("cohorts", "home", "key", "not_before", "wake_at", "wire")

    def __init__(self, key: SubscriptionSetKey, wire: Wire) -> None:
        self.key = key
        self.wire = wire
        self.cohorts: dict[Cohort, None] = {}
        self.home: Cohort | None = None  # the one that the others rejoin
        self.not_before = 0.0
        self.wake_at: float | None = None


class ChannelRegistry:
    """The declared channels, their logs, and the layouts in use.

    Every name that is asked for is either a declared channel or a member of a pattern. Members appear at first use,
    at most `max_members` a pattern, and go when nobody watches them and nothing is kept.
    """

    def __init__(self, channels: Iterable[Channel], tuning: Tuning, nonce: str) -> None:
        self._tuning: Final = tuning
        self._nonce: Final = nonce
        self._lives = 0
        self._patterns: list[Channel] = []
        self._members: dict[str, int] = {}
        self._unused: dict[str, dict[ChannelLog, None]] = {}
        """By pattern: members in which there never was anything, and which nobody watched at some time."""
        self.members: Schedule[ChannelLog] = Schedule()
        self.logs: dict[str, ChannelLog] = {}
        self.layouts: dict[SubscriptionSetKey, SubscriptionSet] = {}
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
        # Not the members: a name may be a secret, and to sort ten thousand of them takes a millisecond.
        declared_names = sorted(self.logs)[:8] + [pattern.name for pattern in self._patterns[:8]]
        self._declared: Final = ", ".join(declared_names) or "none"

    def new_epoch(self) -> str:
        """An epoch that no other life of a channel in this or another process has."""
        self._lives += 1
        return f"{self._nonce}.{self._lives}"

    def _open(self, channel: Channel, name: str) -> ChannelLog:
        log: ChannelLog
        if channel.mode == "events":
            log = EventLog(channel, name, self.new_epoch(), self._tuning)
        elif channel.mode == "durable":
            log = DurableLog(channel, name, self.new_epoch(), self._tuning)
        else:
            log = KeyedLog(channel, name, self.new_epoch())
        self.logs[name] = log
        return log

    def restore(self, name: str, epoch: str, kept: int, head: int) -> None:
        """Let a durable channel go on where its journal stands. Before anybody reads or publishes."""
        log = self.logs[name]
        restored = DurableLog(log.channel, name, epoch, self._tuning, head, kept)
        self.logs[name] = restored

    def declaration(self, name: str) -> Channel:
        """The declaration that `name` falls under; raises `InvalidChannel` or `UnknownChannel`. Any thread may ask."""
        log = self.logs.get(name)
        if log is not None:
            return log.channel
        check_name(name)
        for pattern in self._patterns:
            if name.startswith(pattern.name[:-1]) and len(name) >= len(pattern.name):
                return pattern
        raise UnknownChannel(f"channel {name!r} is not declared; the hub has {self._declared}")

    def resolve(self, name: str, now: float) -> ChannelLog:
        """The log of `name`; a member of a pattern appears. Raises what `declaration` does, or
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
        # Whole seconds, so that few places are in the heap.
        self.members.at(log, ceil(now + pattern.keep_seconds))
        self._unused[pattern.name][log] = None
        return log

    def unwatch(self, log: ChannelLog) -> None:
        """Nobody watches a log any more."""
        if log.is_member and not log.head:
            self._unused[log.channel.name][log] = None

    def _make_room(self) -> None:
        """Let members go that were of no use, where half of the places are taken; or who asks for names would take all
        of them for `keep_seconds`. Those that went unwatched first are the first."""
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
        """Let members go that nobody watches and of which nothing is kept; who comes back has a new epoch."""
        self._make_room()
        for log in self.members.due(now):
            expires = log.published_at + log.channel.keep_seconds
            if not log.watchers and (log.is_empty or now >= expires):
                self._remove(log)
            else:
                self.members.at(log, max(expires, now + max(1.0, log.channel.keep_seconds)))

    def layout(self, wire: Wire, subscriptions: Iterable[tuple[str, float | None]]) -> SubscriptionSet:
        """The layout of these subscriptions; O(subscriptions)."""
        key = (wire.name, tuple(sorted(subscriptions, key=lambda pair: pair[0])))
        layout = self.layouts.get(key)
        if layout is None:
            layout = self.layouts[key] = SubscriptionSet(key, wire)
        return layout

    def leave(self, cohort: Cohort) -> None:
        """Take an empty cohort out of its layout, and the layout away with its last cohort."""
        layout = cohort.layout
        del layout.cohorts[cohort]
        if layout.home is cohort:
            layout.home = None
        if not layout.cohorts:
            layout.wake_at = None
            self.layouts.pop(layout.key, None)
