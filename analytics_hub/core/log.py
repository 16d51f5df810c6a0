"""A channel is a log: what it keeps in each mode, and what is still to be delivered above a position in it.

Publishing appends one entry: O(1), whatever the number of readers. A log knows nothing about its readers, except which
of them must be told about its next entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from ..channels import Channel
from ..exceptions import InvalidItem, TableFull
from ..protocol import encode
from ..tuning import Tuning
from .ring import Entry, RingBuffer
from .statistics import Ledger

_MAX_TYPES: Final = 256
"""Encoded types that a log remembers; a channel normally has one."""


class ChannelLog:
    """What all modes have in common.

    `head` is the newest sequence number, `floor` the last one that memory no longer has. `after(position)` lists what
    is live above a position. `idle` holds the readers that have read everything, `followers` the cohorts that are
    handed each entry (`fanout.py`) and were handed everything up to `distributed`. `is_dirty` and `is_undistributed`:
    the scheduler knows that the idle readers, or the followers, have something to come.
    """

    conflates: ClassVar[bool] = False

    __slots__ = (
        "channel",
        "closed_accounts",
        "distributed",
        "epoch",
        "floor",
        "followers",
        "head",
        "idle",
        "is_dirty",
        "is_member",
        "is_undistributed",
        "name",
        "prefix",
        "published_at",
        "readers",
        "types",
        "wake_at",
        "watchers",
    )

    def __init__(self, channel: Channel, name: str, epoch: str) -> None:
        self.channel = channel
        self.name = name
        self.epoch = epoch
        self.head = 0
        self.floor = 0
        # `Reader` and `Cohort` are defined above logs, which never look into them.
        self.idle: dict[Any, None] = {}
        self.followers: dict[Any, Callable[[Entry], None]] = {}
        self.distributed = 0
        self.is_dirty = False
        self.is_undistributed = False
        self.readers = 0  # of cohorts, whether they are idle, busy or stalled
        self.is_member = channel.is_pattern
        self.watchers = 0
        self.closed_accounts = Ledger()  # the sum over all subscriptions that have ended
        self.published_at = 0.0
        self.wake_at: float | None = None
        self.prefix = b'{"channel":%b,"seq":' % encode(name)
        self.types: dict[str, bytes] = {}

    def encode_type(self, type_: str | None) -> bytes:
        """The JSON of an item's type, cached."""
        known = self.types.get(type_ or "")
        if known is None:
            if len(self.types) >= _MAX_TYPES:
                self.types.clear()
            known = self.types[type_ or ""] = encode(type_ or self.channel.type or self.name)
        return known

    def encode_item(
        self, seq: int, type_: str | None, stamp: str, data: bytes, key: str | None, deleted: bool
    ) -> bytes:
        """The encoded data item (`docs/protocol.md` §2)."""
        if key is None:
            return b'%b%d,"type":%b,"timestamp":"%b","data":%b}' % (
                self.prefix,
                seq,
                self.types.get(type_ or "") or self.encode_type(type_),
                stamp.encode(),
                data,
            )
        return b'%b%d,"key":%b,"type":%b,"timestamp":"%b","data":%b%b}' % (
            self.prefix,
            seq,
            encode(key),
            self.encode_type(type_),
            stamp.encode(),
            data,
            b',"deleted":true' if deleted else b"",
        )

    def check(self, key: str | None, deleted: bool) -> None:
        """Raise what `publish` would raise for this key. Reads only, so any thread may call it."""
        if key is not None:
            raise InvalidItem(f"key {key!r} on channel {self.name!r}: its mode {self.channel.mode!r} has no keys")
        if deleted:
            raise InvalidItem(f"delete on channel {self.name!r}: its mode {self.channel.mode!r} has no keys")

    def append(self, entry: Entry) -> None:
        raise NotImplementedError  # pragma: no cover - each mode has its own

    def after(self, position: int) -> list[Entry]:
        raise NotImplementedError  # pragma: no cover - each mode has its own

    def some_after(self, position: int, limit: int) -> list[Entry]:
        """At most `limit` of what `after` lists."""
        raise NotImplementedError  # pragma: no cover - called for logs of which a part may be delivered

    def count_lost(self, position: int) -> int:
        """How many entries above `position` can never be delivered from there, except superseded ones."""
        return max(0, self.floor - position)

    def count_pending(self, position: int, fresh: bool) -> int:
        """How many entries above `position` are still to be delivered; to a `fresh` reader no deletions are."""
        return self.head - position - self.count_lost(position)

    def oldest_position(self) -> int:
        """The position before the oldest entry that a new subscription can get: where a snapshot starts."""
        raise NotImplementedError  # pragma: no cover - each mode has its own

    def position_back(self, count: int) -> int:
        """The position `count` deliverable entries before the head."""
        return max(self.oldest_position(), self.head - count)

    @property
    def largest(self) -> int:
        """Bytes of the largest item ever published."""
        raise NotImplementedError  # pragma: no cover - called for `events` only

    @property
    def keeps(self) -> dict[str, float | None]:
        """The bounds of what is kept, as the acknowledgement of a subscription states them."""
        raise NotImplementedError  # pragma: no cover - each mode has its own

    @property
    def is_empty(self) -> bool:
        return self.head == self.floor

    def _seconds(self) -> float | None:
        return self.channel.member_seconds if self.is_member else self.channel.keep_seconds

    def published(self, now: float) -> None:
        """An item was appended at this time; called where the channel has `keep_seconds`."""

    def expire(self, now: float) -> None:
        """Before a subscription starts: forget what is older than it may be."""

    def is_queue_check_due(self) -> bool:
        raise NotImplementedError  # pragma: no cover - called for logs that can be followed

    def is_queue_long(self, queue: Sequence[Entry]) -> bool:
        raise NotImplementedError  # pragma: no cover - called for logs that can be followed

    def release_read(self) -> None:
        """Once a turn, before readers are told of new entries: forget what they all have read and is not kept."""


class EventLog(ChannelLog):
    """`events`: every item; the oldest ones are overwritten.

    There are two bounds. The ring has what readers have not read yet, up to `burst`. New subscriptions start within
    what the channel keeps (`keep_items`, `keep_bytes`, `keep_seconds`); what is older is released once it was read.
    """

    __slots__ = (
        "_age_floor",
        "_checked_at",
        "_keep_bytes",
        "_keep_items",
        "_marks",
        "_turn_head",
        "after",
        "ring",
        "some_after",
    )

    def __init__(self, channel: Channel, name: str, epoch: str, tuning: Tuning, head: int = 0) -> None:
        super().__init__(channel, name, epoch)
        self._keep_items = channel.keep_items
        self._keep_bytes = channel.keep_bytes
        self._age_floor = head
        self._marks: deque[tuple[float, int]] = deque()  # when items were published, and the last of each moment
        self._turn_head = self._checked_at = head
        items = max(channel.keep_items or 0, tuning.burst_items)
        self.ring = RingBuffer(items, max(channel.keep_bytes or 0, tuning.burst_bytes), head)
        self.head = self.floor = head
        self.after = self.ring.after  # type: ignore[method-assign]  # one call less on the hot path
        self.some_after = self.ring.some_after  # type: ignore[method-assign]

    def append(self, entry: Entry) -> None:
        ring = self.ring
        ring.append(entry)
        self.head = ring.head
        self.floor = ring.floor
        if not self.readers and (self._keep_items or self._keep_bytes):
            self._release(self.head)

    @property
    def largest(self) -> int:
        return self.ring.largest

    @property
    def keeps(self) -> dict[str, float | None]:
        items, nbytes = self._keep_items or self.ring.max_items, self._keep_bytes or self.ring.max_bytes
        return {"items": items, "bytes": nbytes, "seconds": self._seconds()}

    def published(self, now: float) -> None:
        """An item was appended at this time; called where the channel has `keep_seconds`."""
        marks = self._marks
        if marks and marks[-1][0] == now:
            marks.pop()
        marks.append((now, self.head))
        while marks[0][1] <= self.floor:
            marks.popleft()

    def expire(self, now: float) -> None:
        if self.channel.keep_seconds is None:
            return
        until = now - self.channel.keep_seconds
        while self._marks and self._marks[0][0] <= until:
            self._age_floor = self._marks.popleft()[1]

    def oldest_position(self) -> int:
        position = max(self.floor, self._age_floor)
        if self._keep_items is not None:
            position = max(position, self.head - self._keep_items)
        if self._keep_bytes is not None and self.ring.nbytes > self._keep_bytes:
            room = self._keep_bytes
            for entry in reversed(self.after(position)):
                room -= len(entry.data)
                if room < 0:
                    return min(entry.seq, self.head - 1)  # at least the newest is kept, as in the ring
        return position

    def release_read(self) -> None:
        # Followers hold entries in their queues, whose positions would be lost.
        if (self._keep_items or self._keep_bytes) and not self.followers and len(self.idle) == self.readers:
            self._release(self._turn_head)
        self._turn_head = self.head

    def _release(self, read: int) -> None:
        self.ring.release(min(read, self.oldest_position()))
        self.floor = self.ring.floor

    def is_queue_check_due(self) -> bool:
        """Whether so much was appended since the last check that a follower's queue may have become too long."""
        if (self.head - self._checked_at) * 4 < self.ring.max_items:
            return False
        self._checked_at = self.head
        return True

    def is_queue_long(self, queue: Sequence[Entry]) -> bool:
        """Whether a follower's queue may soon hold what the ring has overwritten."""
        return len(queue) * 4 > self.ring.max_items * 3 or len(queue) * self.ring.largest * 4 > self.ring.max_bytes * 3


class KeyedLog(ChannelLog):
    """`table` and `latest`: the newest item of every key; `latest` has one key.

    A deleted key stays as a tombstone, so that readers that are behind learn of the deletion. There are at most
    `max_keys` tombstones; `floor` is the number of the newest one that was removed.
    """

    conflates: ClassVar[bool] = True

    __slots__ = ("_live", "_tombstones")

    def __init__(self, channel: Channel, name: str, epoch: str) -> None:
        super().__init__(channel, name, epoch)
        self._live: dict[str | None, Entry] = {}  # in the order of their numbers
        self._tombstones: dict[str | None, None] = {}  # in the order of their deletion

    @property
    def is_keyed(self) -> bool:
        return self.channel.mode == "table"

    def check(self, key: str | None, deleted: bool) -> None:
        if not self.is_keyed:
            return super().check(key, deleted)
        if not key:
            raise InvalidItem(f"channel {self.name!r} is a table: an item needs a key, a text that is not empty")
        entry = self._live.get(key)
        keys = len(self._live) - len(self._tombstones)
        if not deleted and (entry is None or entry.deleted) and keys >= self.channel.max_keys:
            raise TableFull(
                f"key {key!r} would be one more than the {self.channel.max_keys} that channel {self.name!r} may hold"
            )

    def holds(self, key: str) -> bool:
        entry = self._live.get(key)
        return entry is not None and not entry.deleted

    def append(self, entry: Entry) -> None:
        key = entry.key
        live = self._live
        live.pop(key, None)
        live[key] = entry
        self.head = entry.seq
        if entry.deleted:
            self._tombstones[key] = None
            if len(self._tombstones) > self.channel.max_keys:
                oldest = next(iter(self._tombstones))
                del self._tombstones[oldest]
                self.floor = live.pop(oldest).seq
        elif self._tombstones:
            self._tombstones.pop(key, None)

    def after(self, position: int) -> list[Entry]:
        if self.head <= position:
            return []
        found: list[Entry] = []
        for entry in reversed(self._live.values()):
            if entry.seq <= position:
                break
            found.append(entry)
        found.reverse()
        return found

    def count_lost(self, position: int) -> int:
        """Below `floor` superseded items and deletions can no longer be told apart: all of it counts as lost, except
        what is still live and will be delivered."""
        if position >= self.floor:
            return 0
        kept = sum(entry.seq <= self.floor for entry in self.after(position))
        return self.floor - position - kept

    def count_pending(self, position: int, fresh: bool) -> int:
        live = self._live
        if live and position < next(iter(live.values())).seq:  # everything, as after each start with a snapshot
            return len(live) - len(self._tombstones) if fresh else len(live)
        entries = self.after(position)
        return sum(not entry.deleted for entry in entries) if fresh else len(entries)

    def oldest_position(self) -> int:
        for entry in self._live.values():
            if not entry.deleted:
                return entry.seq - 1
        return self.head

    def position_back(self, count: int) -> int:
        position = self.head
        for entry in reversed(self._live.values()):
            if count == 0:
                break
            if not entry.deleted:
                position = entry.seq - 1
                count -= 1
        return position

    @property
    def keeps(self) -> dict[str, float | None]:
        return {
            "items": self.channel.max_keys if self.is_keyed else 1,
            "bytes": None,
            "seconds": self._seconds(),
        }

    @property
    def is_empty(self) -> bool:
        return len(self._live) == len(self._tombstones)


@dataclass(slots=True)
class Draft:
    """An item of a durable channel on its way to the journal. `waiter` is the driver's own."""

    type: str | None
    stamp: str
    data: bytes
    waiter: object = None


class DurableLog(EventLog):
    """`durable`: an item has a number, and readers, only once the journal has it.

    At most one batch is with the journal; items published meanwhile wait in `drafts` and become the next batch (group
    commit). Memory keeps a window; the journal has what is older than `floor` and above `journal_floor`.
    """

    __slots__ = ("batch", "drafts", "journal_floor")

    def __init__(
        self, channel: Channel, name: str, epoch: str, tuning: Tuning, head: int = 0, journal_floor: int = 0
    ) -> None:
        super().__init__(channel, name, epoch, tuning, head)
        # What memory no longer has is read from the journal: one bound is enough.
        self._keep_items = self._keep_bytes = None
        self.ring = RingBuffer(channel.keep_items or tuning.burst_items, channel.keep_bytes or tuning.burst_bytes, head)
        self.after = self.ring.after  # type: ignore[method-assign]
        self.some_after = self.ring.some_after  # type: ignore[method-assign]
        self.journal_floor = journal_floor
        self.drafts: list[Draft] = []
        self.batch: list[Draft] = []

    def encode_batch(self) -> list[bytes]:
        """Make the drafts the batch; returns its items, encoded with the numbers that they will have."""
        self.batch, self.drafts = self.drafts, []
        return [
            self.encode_item(self.head + i, draft.type, draft.stamp, draft.data, None, False)
            for i, draft in enumerate(self.batch, 1)
        ]

    def count_lost(self, position: int) -> int:
        return max(0, self.oldest_position() - position)

    def oldest_position(self) -> int:
        return min(self.journal_floor, self.floor)  # memory may still have what the journal has deleted
